"""Rows that live on the GPU: ids travel, and what lacks comes from the host once and stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import CudaLibrary, CudaRows
from pepnet_infer.errors import BackendError
from pepnet_infer.process import forks
from pepnet_infer.rows.cache.cached_rows import CachedRows

#: Entries of a set.
WAYS = 8


class Place(NamedTuple):
    """Where a field's columns begin in one of the inputs."""

    input: str
    column: int


class FieldOnDevice(NamedTuple):
    """One field of a model: kind "id", "mean" or "sum" (of a bag), or "dense"; its width and its table's number."""

    kind: str
    width: int
    number: int
    places: tuple[Place, ...]


class DeviceRows(CudaRows, forks.OwnLock):
    """Tables on a GPU, one for each width: 8 entries a set. Any thread may call.

    Raises BackendError where the GPU fails or has no room.
    """

    def __init__(self, library: CudaLibrary, entries: Mapping[int, int], by_score: bool, device: int) -> None:
        """entries: width → how many rows there is room for, at least 8. by_score: what is evicted, else by last use."""
        CudaRows.__init__(self, library, list(entries.items()), by_score, device)
        forks.OwnLock.__init__(self)
        #: see `cached_rows.Beside`
        self.epoch = 0
        self._counted: dict[tuple[str, ...], npt.NDArray[np.int64]] = {}

    def count(self, fields: tuple[str, ...], counts: npt.NDArray[np.int64]) -> None:
        """Adds what a call asked: of each field keys, of these lacking, of the others those without a row, [F, 3]."""
        with self.lock:
            before = self._counted.get(fields)
            self._counted[fields] = counts if before is None else before + counts

    def stats(self) -> dict[str, Any]:
        """Returns entries, bytes, inserted, dropped, outdated (rows that were not put in any more), total and fields.

        Of these each has keys, hits, misses (which were asked of the host), negative_hits and defaults; a bag of which
        one key is not there is asked of the host as a whole.
        """
        with self.lock:
            counted = list(self._counted.items())
        by_field: dict[str, npt.NDArray[np.int64]] = {}
        for names, counts in counted:  # models that share rows may have other fields
            for name, numbers in zip(names, counts, strict=True):
                by_field[name] = by_field.get(name, 0) + numbers
        fields = {name: _counters(numbers) for name, numbers in by_field.items()}
        return {**super().stats(), "total": _counters(sum(by_field.values(), np.zeros(3, np.int64))), "fields": fields}


def rows_beside(cached: CachedRows, library: CudaLibrary, size: int, device: int) -> DeviceRows:
    """Returns tables for the rows of a cache: `size` bytes, or as many as all its tables' rows need, and half as many.

    Where there are several widths, each gets a share by what its rows need. Raises BackendError.
    """
    rows: dict[int, int] = {}
    for table in cached.tables.values():
        rows[table.dim] = rows.get(table.dim, 0) + table.rows
    # Room for half as many more: sets fill unevenly, and that an id has no row takes an entry too.
    wanted = {dim: (count * 3 // 2 + 1024) // WAYS * WAYS for dim, count in rows.items()}
    needed = sum(_entry_bytes(dim) * count for dim, count in wanted.items())
    share = min(1.0, size / needed)
    entries = {dim: int(count * share) // WAYS * WAYS for dim, count in wanted.items()}
    least = sum(WAYS * _entry_bytes(dim) for dim in wanted)
    if any(count < WAYS for count in entries.values()):
        raise BackendError(f"options.rows: expected at least about {least * len(wanted)} bytes, got {size}")
    return DeviceRows(library, entries, cached.config.policy in ("gset", "lfu"), device)


def _entry_bytes(width: int) -> int:
    return 8 + 16 + 4 * width


def _counters(counts: npt.NDArray[np.int64]) -> dict[str, int]:
    keys, lacking, absent = counts.tolist()
    known = keys - lacking - absent
    # None is unavailable: what lacks is asked of the host.
    return {"keys": keys, "hits": known, "misses": lacking, "negative_hits": absent, "defaults": absent}
