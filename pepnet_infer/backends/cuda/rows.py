"""Rows that live on the GPU: ids travel, and what lacks comes from the host once and stays."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import BackendError
from pepnet_infer.process import forks

if TYPE_CHECKING:
    from pepnet_infer.backends.cuda.library import LOST, CudaLibrary
    from pepnet_infer.rows.cache.cached_rows import CachedRows
    from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import Mask, RowBatch

_INPUTS = {"general": 0, "domain": 1, "prior": 2}
#: Entries of a set.
WAYS = 8
_KINDS = {"id": 0, "mean": 1, "sum": 2, "dense": 3}

Rows = npt.NDArray[np.float32]


class Width(ctypes.Structure):
    """`PepnetWidth` of kernels/cuda/api.h, as the others here are the structs of their names."""

    _fields_ = (("width", c_int64), ("entries", c_int64))


class _NewRows(ctypes.Structure):
    _fields_ = (
        ("width", c_int64),
        ("count", c_int64),
        *((name, c_void_p) for name in ("keys", "rows", "absent", "high", "scores", "expires")),
    )


class _Place(ctypes.Structure):
    _fields_ = (("input", c_int32), ("column", c_int32))


class _Field(ctypes.Structure):
    _fields_ = (
        ("kind", c_int32),
        ("width", c_int32),
        ("number", c_uint64),
        ("places", POINTER(_Place)),
        ("place_count", c_int64),
    )


class Feature(ctypes.Structure):
    """`PepnetFeature`."""

    _fields_ = (
        *((name, c_void_p) for name in ("keys", "offsets", "values", "default_row")),
        ("count", c_int64),
        ("shared", c_int32),
    )


class Scoring(ctypes.Structure):
    """`PepnetScoring`."""

    _fields_ = (
        ("features", c_void_p),  # Feature [feature_count]
        *((name, c_int64) for name in ("feature_count", "first", "rows")),
        *((name, c_void_p) for name in ("scores", "unknown", "waiting")),
        ("lacking", POINTER(c_uint32)),
        ("lacking_count", c_int64),
        ("generation", c_uint64),
    )


class Patches(ctypes.Structure):
    """`PepnetPatches`."""

    _fields_ = (
        ("at", c_void_p),
        ("from", c_void_p),
        ("count", c_int64),
        ("values", c_void_p),
        ("value_count", c_int64),
    )


@dataclass(frozen=True)
class Place:
    """Where a field's columns begin in one of the inputs."""

    input: str
    column: int


@dataclass(frozen=True)
class FieldOnDevice:
    """One field of a model: kind "id", "mean" or "sum" (of a bag), or "dense"; its table's number and width."""

    kind: str
    width: int
    number: int
    places: tuple[Place, ...]


class DeviceRows:
    """Tables on a GPU, one for each width: 8 entries a set. Any thread may call.

    Raises BackendError where the GPU fails or has no room.
    """

    def __init__(self, library: CudaLibrary, entries: Mapping[int, int], by_score: bool, device: int) -> None:
        """entries: width → how many rows there is room for, at least 8. by_score: what is evicted, else by last use."""
        self.cuda = library
        self._calls = declare(library)
        widths = (Width * len(entries))(*(Width(*one) for one in entries.items()))
        handle = self._calls.pepnet_cuda_rows(widths, len(entries), by_score, device)
        if not handle:
            raise BackendError(f"backend: {library.error()}")
        self.handle = int(handle)
        #: see `cached_rows.Beside`
        self.epoch = 0
        self._lock = threading.Lock()
        self._counted: dict[tuple[str, ...], npt.NDArray[np.int64]] = {}
        self._free = weakref.finalize(self, self._calls.pepnet_cuda_rows_free, self.handle)
        forks.register(forks.Stage.BACKENDS, child=self._reset_after_fork)

    def _reset_after_fork(self) -> None:
        self._free.detach()  # the parent's memory
        self._calls, self._lock = LOST, threading.Lock()

    @property
    def generation(self) -> int:
        """Counts up whenever keys are dropped."""
        return int(self._calls.pepnet_cuda_rows_generation(self.handle))

    def insert(self, width: int, new: RowBatch, high: Mask, generation: int) -> bool:
        """Puts what is known of distinct keys in, as asked for at a `generation`: a row, or that there is none.

        high: bool [N], keys that never make room for others. Returns False when it may be of before by now.
        """
        arrays = [
            _as(new.keys, np.uint64),
            _as(new.rows, np.float32),
            _as(~new.found, np.uint8),
            _as(high, np.uint8),
            _as(new.scores, np.float32),
            _as(new.expires, np.float64),
        ]
        given = _NewRows(width, len(new.keys), *(array.ctypes.data for array in arrays))
        return self._checked(self._calls.pepnet_cuda_rows_insert(self.handle, given, generation)) == 1

    def drop(self, width: int, keys: Keys) -> None:
        """Forgets `keys` of a width: calls that begin after it ask the host."""
        keys = _as(keys, np.uint64)
        self._checked(self._calls.pepnet_cuda_rows_drop(self.handle, width, keys.ctypes.data, len(keys)))

    def clear(self) -> None:
        """Forgets everything."""
        self._checked(self._calls.pepnet_cuda_rows_clear(self.handle))

    def count(self, fields: tuple[str, ...], counts: npt.NDArray[np.int64]) -> None:
        """Adds what a call asked: of each field keys, of these lacking, of the others those without a row, [F, 3]."""
        with self._lock:
            before = self._counted.get(fields)
            self._counted[fields] = counts if before is None else before + counts

    def stats(self) -> dict[str, Any]:
        """Returns entries, bytes, inserted, dropped, outdated (rows that were not put in any more), total and fields.

        Of these each has keys, hits, misses (which were asked of the host), negative_hits and defaults; a bag of which
        one key is not there is asked of the host as a whole.
        """
        with self._lock:
            counted = list(self._counted.items())
        by_field: dict[str, npt.NDArray[np.int64]] = {}
        for names, counts in counted:  # models that share rows may have other fields
            for name, numbers in zip(names, counts, strict=True):
                by_field[name] = by_field.get(name, 0) + numbers
        fields = {name: _counters(numbers) for name, numbers in by_field.items()}
        total = _counters(sum(by_field.values(), np.zeros(3, np.int64)))
        said = self.cuda.answer(self._calls.pepnet_cuda_rows_stats, c_void_p(self.handle))
        return {**said, "total": total, "fields": fields}

    def _checked(self, answer: int) -> int:
        if answer < 0:
            raise BackendError(f"backend: {self.cuda.error()}")
        return answer


def attach(library: CudaLibrary, model: int, rows: DeviceRows, fields: Sequence[FieldOnDevice]) -> None:
    """Lets a model score features whose rows are in `rows`. Raises BackendError."""
    listed = (_Field * len(fields))()
    for i, field in enumerate(fields):
        places = (_Place * len(field.places))(*(_Place(_INPUTS[p.input], p.column) for p in field.places))
        listed[i] = _Field(_KINDS[field.kind], field.width, field.number << 48, places, len(places))
    if declare(library).pepnet_cuda_attach(model, rows.handle, listed, len(fields)) != 0:
        raise BackendError(f"backend: {library.error()}")


def declare(library: CudaLibrary) -> Any:
    """Returns the library's functions with their types."""
    calls = library.calls
    if calls.pepnet_cuda_rows.argtypes is None:
        calls.pepnet_cuda_rows.restype = c_void_p
        calls.pepnet_cuda_rows.argtypes = [POINTER(Width), c_int64, c_int32, c_int32]
        calls.pepnet_cuda_rows_free.argtypes = [c_void_p]
        calls.pepnet_cuda_rows_free.restype = None
        calls.pepnet_cuda_rows_generation.argtypes = [c_void_p]
        calls.pepnet_cuda_rows_generation.restype = c_uint64
        calls.pepnet_cuda_rows_insert.argtypes = [c_void_p, POINTER(_NewRows), c_uint64]
        calls.pepnet_cuda_rows_drop.argtypes = [c_void_p, c_int64, c_void_p, c_int64]
        calls.pepnet_cuda_rows_clear.argtypes = [c_void_p]
        calls.pepnet_cuda_rows_stats.argtypes = [c_void_p, ctypes.c_char_p, c_int64]
        calls.pepnet_cuda_rows_stats.restype = c_int64
        calls.pepnet_cuda_attach.argtypes = [c_void_p, c_void_p, POINTER(_Field), c_int64]
        calls.pepnet_cuda_score.argtypes = [c_void_p, POINTER(Scoring)]
        calls.pepnet_cuda_finish.argtypes = [POINTER(Scoring), POINTER(Patches)]
        calls.pepnet_cuda_forget.argtypes = [c_void_p]
        calls.pepnet_cuda_forget.restype = None
    return calls


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
    return {
        "keys": keys,
        "hits": known,
        "misses": lacking,
        "negative_hits": absent,
        "defaults": absent,
    }  # none unavailable: what lacks is asked of the host


def _as(array: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any]:
    return np.require(array, dtype, ("C", "A"))
