"""A cache on disk: saved while it serves, loaded after a restart, so that a server does not begin cold.

What is kept of an entry: its row in the cache's own dtype, score, version, expiry, and its place in the order of
eviction within its part of the cache. Negative entries and tombstones are kept like rows. A file has the rows of one
width (`snapshot_file`); a folder has one for each, and a document that says whose rows they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from pepnet_infer import _kernels
from pepnet_infer.errors import BundleError, StoreError
from pepnet_infer.rows.cache import snapshot_file
from pepnet_infer.rows.gset import Gset
from pepnet_infer.storage.atomic import new_directory
from pepnet_infer.storage.document import read_document, write_document
from pepnet_infer.validation import convert, untrusted

_DOCUMENT = "cache.json"
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


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format_version: int
    widths: list[int]
    #: of the store whose rows they are (see `Identified`); None: not known, or rows came by another way as well
    identity: str | None


def save(core: _kernels.RowCache, path: str | os.PathLike[str]) -> Saved:
    """Writes all entries of a cache to the file `path`.

    Readers are not stopped, and writers only of the part that is being copied: each part is as it was at one moment,
    but not all at the same one. Memory: one part's entries. The file appears whole or not at all and is on the disk
    when this returns; what was at `path` before is replaced. Raises StoreError when it cannot be written, or when
    `path` is something else than a snapshot.
    """
    counts = np.zeros(4, np.int64)
    with snapshot_file.new_snapshot(Path(path)) as file:
        writer = snapshot_file.Writer(file, snapshot_file.Header(core.dim, core.dtype, core.policy, core.time))
        for index in range(core.parts):
            records = snapshot_file.pack(core.part(index), core.dtype, core.dim)
            writer.part(index, records)
            counts += np.bincount(snapshot_file.kinds(records), minlength=4)
        writer.end(core.floor)
        size = file.tell()
    rows, negatives, tombstones = counts[snapshot_file.ROW :].tolist()
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
        with open(path, "rb") as file, untrusted(path, StoreError):
            reader = snapshot_file.Reader(path, file)
            header = reader.header
            if (header.dim, header.dtype) != (core.dim, core.dtype):
                raise StoreError(
                    f"{path}: header: expected rows of {core.dim} {core.dtype} as in the cache, "
                    f"got rows of {header.dim} {header.dtype}"
                )
            return _load(core, reader, gset)
    except OSError as error:
        raise StoreError(f"{path}: cannot read: {error}") from error


def save_folder(
    cores: Mapping[int, _kernels.RowCache], folder: str | os.PathLike[str], identity: Callable[[], str | None]
) -> Saved:
    """Writes the caches of all widths to `folder`; see `CachedRows.save`. identity: asked when all rows are there."""
    with StoreError.in_place_of(BundleError), new_directory(Path(folder), _DOCUMENT, overwrite=True) as fresh:
        parts = [save(core, fresh / _name(dim)) for dim, core in cores.items()]
        write_document(fresh / _DOCUMENT, {"format_version": 1, "widths": sorted(cores), "identity": identity()})
    return Saved(*map(sum, zip(*parts, strict=True)))


def load_folder(cores: Mapping[int, _kernels.RowCache], folder: str | os.PathLike[str], gset: Gset) -> Loaded:
    """Writes what `folder` holds into caches of the same widths; see `CachedRows.load`. gset: how scores decay."""
    found = _read_document(folder)
    if sorted(found.widths) != sorted(cores):
        raise StoreError(f"{folder}: expected rows of widths {sorted(cores)}, got {sorted(found.widths)}")
    parts = [load(core, Path(folder) / _name(dim), gset) for dim, core in cores.items()]
    return Loaded(*map(sum, zip(*parts, strict=True)))


def check_identity(folder: str | os.PathLike[str], identity: str | None) -> None:
    """Raises StoreError unless the rows of a snapshot are those of the store with this identity."""
    found = _read_document(folder).identity
    if identity is None:
        raise StoreError(f"{folder}: expected a store that can tell its rows from others, got one without an identity")
    if found != identity:
        got = "rows that were updated, or of a store without an identity" if found is None else f"those of {found}"
        raise StoreError(f"{folder}: expected the rows of {identity}, got {got}")


def _read_document(folder: str | os.PathLike[str]) -> _Document:
    with StoreError.in_place_of(BundleError):
        data = read_document(Path(folder), _DOCUMENT)
    document: _Document = convert(f"{Path(folder) / _DOCUMENT}", data, _Document, StoreError)
    if document.format_version != 1:
        raise StoreError(f"{folder}: expected format version 1, got {document.format_version}")
    return document


def _name(dim: int) -> str:
    return f"width-{dim}.snapshot"


def _load(core: _kernels.RowCache, reader: snapshot_file.Reader, gset: Gset | None) -> Loaded:
    now, decay = core.time, np.float32(1.0)
    if gset is not None:
        decay = np.float32(gset.decayed(1.0, gset.interval_of(now) - gset.interval_of(reader.header.saved_at)))
    # Of a part that is larger than its portion of the cache, only the best are taken.
    skipped = max(0.0, 1.0 - core.capacity_rows / max(reader.entries, 1))
    floor, totals = reader.floor, np.zeros(len(Loaded._fields), np.int64)
    for step in range(_ROUNDS):
        for block in reader.blocks:
            least = int(skipped * block.total)
            begin, end = (least + (block.total - least) * edge // _ROUNDS for edge in (step, step + 1))
            totals += _write(core, reader.records(block, begin, end), now, decay)
    for block in reader.blocks:  # what there is no room for counts as if it had been evicted
        versions = reader.records(block, 0, int(skipped * block.total))["version"]
        floor = max(floor, int(versions.max(initial=0)))
    totals[-1] += reader.entries - totals.sum()
    core.raise_floor(floor)
    return Loaded(*totals.tolist())


def _write(core: _kernels.RowCache, records: snapshot_file.Records, now: float, decay: np.float32) -> Loaded:
    """Writes records of one part."""
    fresh = records[records["expires"] > now]
    expired = len(records) - len(fresh)
    there = core.peek(fresh["key"].astype(np.uint64))
    versioned = (there["outcome"] == 1) | there["tombstone"]
    wanted = (there["outcome"] == 0) | (versioned & (there["version"] < fresh["version"]))
    older = int(np.count_nonzero(~wanted))
    fresh = fresh[wanted]
    kind = snapshot_file.kinds(fresh)
    live = fresh[kind == snapshot_file.ROW]
    rows = snapshot_file.unpack(live, core.dtype)
    rows.scores[:] *= decay
    gone = snapshot_file.unpack(fresh[kind == snapshot_file.TOMBSTONE], core.dtype)
    absent = fresh["key"][kind == snapshot_file.NEGATIVE].astype(np.uint64)
    results = np.zeros(len(live), np.uint8)
    earned = snapshot_file.earned(live)
    written = core.write(*rows.entries, results=results, restore=True, earned=earned)
    erased = core.erase(gone.keys, gone.versions, gone.expires)
    core.mark_absent(absent)
    older += int(np.count_nonzero(results == 0)) + len(gone.keys) - erased
    return Loaded(written, len(absent), erased, expired, older, int(np.count_nonzero(results == 3)))
