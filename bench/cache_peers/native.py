"""The peers in C++: a small library of plain functions, built by `make bench-cache` and loaded with ctypes.

Arrays are handed over as addresses. ctypes drops the GIL around a call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pepnet_infer.bench.cache_peers.contender import Batch, Contender, Destination, Floats, Workload
from pepnet_infer.errors import PepnetError

#: Every peer the library can hold, and the Debian package with the headers that one needs.
PACKAGES = {"list-lru": "", "robin-map": "robin-map-dev", "absl-map": "libabsl-dev"}


@dataclass(frozen=True)
class Gather:
    """How the floor copies: rows asked for before they are copied, and bytes a move."""

    ahead: int
    width: int


class _Gather(ctypes.Structure):
    _fields_ = (("ahead", ctypes.c_uint32), ("width", ctypes.c_uint32))


_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "pepnet_peers": (ctypes.c_char_p, []),
    "pepnet_dense_make": (ctypes.c_void_p, [ctypes.c_size_t, ctypes.c_size_t]),
    "pepnet_dense_data": (ctypes.c_void_p, [ctypes.c_void_p]),
    "pepnet_dense_free": (None, [ctypes.c_void_p]),
    "pepnet_widest": (ctypes.c_uint32, []),
    "pepnet_dense_gather": (
        None,
        [*[ctypes.c_void_p] * 2, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_void_p],
    ),
    "pepnet_dense_time": (
        ctypes.c_double,
        [
            *[ctypes.c_void_p] * 2,
            *[ctypes.c_size_t] * 2,
            ctypes.c_void_p,
            ctypes.c_ssize_t,
            ctypes.c_void_p,
            ctypes.c_size_t,
        ],
    ),
    "pepnet_cache_make": (ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t]),
    "pepnet_cache_insert": (ctypes.c_int, [*[ctypes.c_void_p] * 3, ctypes.c_size_t]),
    "pepnet_cache_lookup": (
        ctypes.c_size_t,
        [*[ctypes.c_void_p] * 2, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_ssize_t],
    ),
    "pepnet_cache_size": (ctypes.c_size_t, [ctypes.c_void_p]),
    "pepnet_cache_free": (None, [ctypes.c_void_p]),
}


class PeerLibrary:
    """The library's functions. Raises PepnetError for a file that is not it."""

    def __init__(self, path: Path) -> None:
        try:
            self.functions = ctypes.CDLL(str(path.resolve()))
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(self.functions, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            raise PepnetError(f"{path}: expected the library that `make bench-cache` builds, got: {error}") from error
        lines = self.functions.pepnet_peers().decode().splitlines()
        self.peers: dict[str, str] = dict(line.split("\t", 1) for line in lines)  # name -> what it is

    @property
    def widths(self) -> list[int]:
        """Bytes a move that this CPU has."""
        return [width for width in (16, 32, 64) if width <= self.functions.pepnet_widest()]


class Dense:
    """A dense float32 table on the same kind of pages as the cache, and the gather from it: the floor."""

    def __init__(self, library: PeerLibrary, rows: int, dim: int) -> None:
        self._functions = library.functions
        self._handle = self._functions.pepnet_dense_make(rows, dim)
        if not self._handle:
            raise MemoryError(f"a table of {rows} rows of {dim} float32")
        data = ctypes.cast(self._functions.pepnet_dense_data(self._handle), ctypes.POINTER(ctypes.c_float))
        self.table: Floats = np.ctypeslib.as_array(data, (rows, dim))  # gone after close()

    def close(self) -> None:
        """Frees the table's memory."""
        if self._handle:
            self._functions.pepnet_dense_free(self._handle)
        self._handle = None

    def contender(self, name: str, how: Gather, destination: Destination) -> Contender:
        """Returns the gather as a contender."""
        gather, handle, settings = self._functions.pepnet_dense_gather, self._handle, _Gather(how.ahead, how.width)
        how_to = ctypes.byref(settings)  # keeps it alive
        parts, outs = _addresses(destination), [part.out for part in destination]

        def call(batch: Batch) -> Sequence[Floats]:
            positions = batch.positions.ctypes.data
            for begin, count, out, stride in parts:
                gather(handle, positions + begin, count, out, stride, how_to)
            return outs

        what = f"C++ gather of known positions, {how.ahead} rows ahead, moves of {how.width} bytes"
        return Contender(name, what, call)

    def nanoseconds(self, batch: Batch, how: Gather, destination: Destination) -> float:
        """Returns the time of one gather of the batch in ns a row, taken in C++. For a destination of one part."""
        ((_, _, address, stride),) = _addresses(destination)
        settings, data, rows = _Gather(how.ahead, how.width), batch.positions.ctypes.data, batch.rows
        time = self._functions.pepnet_dense_time
        return float(time(self._handle, data, rows, rows, address, stride, ctypes.byref(settings), 1))


def cache_contender(library: PeerLibrary, name: str, workload: Workload, destination: Destination) -> Contender:
    """Returns a cache of the library with all rows of the workload in it. Raises PepnetError when it is not there."""
    functions, rows = library.functions, workload.keys.size
    handle = functions.pepnet_cache_make(name.encode(), rows, workload.table.shape[1])
    if not handle:
        raise PepnetError(f"peer {name}: expected one of {', '.join(library.peers)}, or there is no memory for it")
    keys, table = workload.keys, np.ascontiguousarray(workload.table)
    if not functions.pepnet_cache_insert(handle, keys.ctypes.data, table.ctypes.data, rows):
        functions.pepnet_cache_free(handle)
        raise PepnetError(f"peer {name}: expected room for {rows} rows, got none")
    lookup = functions.pepnet_cache_lookup
    parts, outs = _addresses(destination), [part.out for part in destination]

    def call(batch: Batch) -> Sequence[Floats]:
        keys = batch.keys.ctypes.data
        found = sum(lookup(handle, keys + begin, count, out, stride) for begin, count, out, stride in parts)
        if found != batch.rows:
            raise PepnetError(f"peer {name}: expected {batch.rows} hits, got {found}")
        return outs

    return Contender(name, library.peers[name], call, lambda: functions.pepnet_cache_free(handle))


def _addresses(destination: Destination) -> list[tuple[int, int, int, int]]:
    """Of each part: the offset of its ids in bytes, their number, the address of its first row, floats between rows."""
    return [(p.begin * 8, p.end - p.begin, p.out.ctypes.data, p.out.strides[0] // 4) for p in destination]
