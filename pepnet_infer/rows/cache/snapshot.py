"""A cache on disk: saved while it serves, loaded after a restart, so that a server does not begin cold.

What is kept of an entry: its row in the cache's own dtype, score, version, expiry, and its place in the order of
eviction within its part of the cache. Negative entries and tombstones are kept like rows. The file is described in
`snapshot_file`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pepnet_infer import _kernels
from pepnet_infer.errors import StoreError
from pepnet_infer.rows.cache import snapshot_file, snapshot_rows
from pepnet_infer.rows.gset import Gset
from pepnet_infer.validation import untrusted

#: A part is loaded in this many rounds, the worst sixteenth of every part first: so the order of eviction is kept
#: within a part, and across parts to a sixteenth, while no more than a block is held.
_ROUNDS = 16


class Saved(NamedTuple):
    """What a snapshot holds."""

    rows: int
    negatives: int
    tombstones: int
    bytes: int


class Loaded(NamedTuple):
    """What became of the entries of a snapshot."""

    rows: int  #: written
    negatives: int  #: offered; one never replaces what is there
    tombstones: int  #: written
    expired: int  #: not loaded: they had expired
    older: int  #: not loaded: the same version or a newer one was there
    rejected: int  #: not loaded: no place, or beyond its field's share


def save(core: _kernels.RowCache, path: str | os.PathLike[str]) -> Saved:
    """Writes all entries of a cache to the file `path`.

    Readers are not stopped, and writers only of the part that is being copied: each part is as it was at one moment,
    but not all at the same one. Memory: one part's entries. The file appears whole or not at all and is on the disk
    when this returns; what was at `path` before is replaced. Raises StoreError when it cannot be written, or when
    `path` is something else than a snapshot.
    """
    counts = np.zeros(4, np.int64)
    with snapshot_file.new_snapshot(Path(path)) as file:
        header = snapshot_file.Header(core.dim, core.dtype, core.policy, core.time)
        writer = snapshot_file.Writer(file, header)
        for index in range(core.parts):
            records = snapshot_rows.pack(core.part(index), core.dtype, core.dim)
            writer.part(index, records)
            counts += np.bincount(snapshot_rows.kinds(records), minlength=4)
        writer.end(core.floor)
        size = file.tell()
    rows, negatives, tombstones = (
        int(counts[kind]) for kind in (snapshot_rows.ROW, snapshot_rows.NEGATIVE, snapshot_rows.TOMBSTONE)
    )
    return Saved(rows, negatives, tombstones, size)


def load(core: _kernels.RowCache, path: str | os.PathLike[str], gset: Gset | None = None) -> Loaded:
    """Writes the entries of the snapshot at `path` into a cache, which may be in use.

    Every byte of the file is checked before the first entry is written: a damaged one raises StoreError that names the
    block and its offset, and leaves the cache as it was. The cache may have another capacity, associativity or policy:
    one that is too small gets the entries that would have been evicted last. Dim and dtype must be the file's. An
    entry in the cache stays unless the snapshot has a newer version of it. Whatever has expired is left out; negative
    entries begin their time anew. gset: scores decay for the time since the snapshot, as they would have in the cache;
    None leaves them.
    """
    path = Path(path)
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise StoreError(f"{path}: cannot read: {error}") from error
    with file:
        try:
            with untrusted(path, StoreError):
                reader = snapshot_file.Reader(path, file)
                _check_fits(path, reader.header, core)
                return _load(core, reader, gset)
        except OSError as error:
            raise StoreError(f"{path}: cannot read: {error}") from error


def _check_fits(path: Path, header: snapshot_file.Header, core: _kernels.RowCache) -> None:
    if (header.dim, header.dtype) != (core.dim, core.dtype):
        raise StoreError(
            f"{path}: header: expected rows of {core.dim} {core.dtype} as in the cache, "
            f"got rows of {header.dim} {header.dtype}"
        )


def _load(core: _kernels.RowCache, reader: snapshot_file.Reader, gset: Gset | None) -> Loaded:
    now = core.time
    decay = np.float32(1.0)
    if gset is not None:
        decay = np.float32(gset.decayed(1.0, gset.interval_of(now) - gset.interval_of(reader.header.saved_at)))
    # Of a part that is larger than its portion of the cache, only the best are taken.
    skipped = max(0.0, 1.0 - core.capacity_rows / max(reader.entries, 1))
    totals = np.zeros(len(Loaded._fields), np.int64)
    for step in range(_ROUNDS):
        for block in reader.blocks:
            least = int(skipped * block.total)
            begin, end = (least + (block.total - least) * edge // _ROUNDS for edge in (step, step + 1))
            if begin < block.first + block.size and end > block.first and begin < end:
                totals += _write(core, reader.records(block, begin, end), now, decay)
    totals[-1] += reader.entries - totals.sum()
    core.raise_floor(max(reader.floor, _newest_skipped(reader, skipped)))
    return Loaded(*(int(total) for total in totals))


def _newest_skipped(reader: snapshot_file.Reader, skipped: float) -> int:
    """Returns the highest version of what is left out for want of room: as if it had been evicted."""
    newest = 0
    for block in reader.blocks:
        records = reader.records(block, 0, int(skipped * block.total))
        if len(records):
            newest = max(newest, int(records["version"].max()))
    return newest


def _write(
    core: _kernels.RowCache, records: snapshot_rows.Records, now: float, decay: np.float32
) -> tuple[int, int, int, int, int, int]:
    """Writes records of one part and returns what `Loaded` counts."""
    live = records["expires"] > now
    fresh, older = records[live], 0
    there = core.peek(fresh["key"].astype(np.uint64))
    versioned = (there["outcome"] == 1) | there["tombstone"]
    wanted = (there["outcome"] == 0) | (versioned & (there["version"] < fresh["version"]))
    older = int(np.count_nonzero(~wanted))
    fresh = fresh[wanted]
    kind = snapshot_rows.kinds(fresh)
    live_rows = fresh[kind == snapshot_rows.ROW]
    rows = snapshot_rows.unpack(live_rows, core.dtype)
    gone = snapshot_rows.unpack(fresh[kind == snapshot_rows.TOMBSTONE], core.dtype)
    absent = fresh["key"][kind == snapshot_rows.NEGATIVE].astype(np.uint64)
    results = np.zeros(len(rows.keys), np.uint8)
    written = core.write(
        rows.keys,
        rows.rows,
        rows.scores * decay,
        rows.versions,
        rows.expires,
        results=results,
        restore=True,
        earned=snapshot_rows.earned(live_rows),
    )
    stale = int(np.count_nonzero(results == 0))
    erased = core.erase(gone.keys, gone.versions, gone.expires)
    core.mark_absent(absent)
    return (
        written,
        len(absent),
        erased,
        int(len(records) - np.count_nonzero(live)),
        older + stale + len(gone.keys) - erased,
        int(np.count_nonzero(results == 3)),
    )
