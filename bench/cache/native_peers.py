"""The peers in C++: a small library of plain functions, built by `make bench-cache` and loaded with ctypes.

Arrays are handed over as addresses. ctypes drops the GIL around a call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pepnet_infer.bench.cache.contender import Batch, Contender, Destination, Floats, Workload
from pepnet_infer.errors import PepnetError

#: Every peer the library can hold, and the Debian package with the headers that one needs.
PACKAGES = {"list-lru": "", "robin-map": "robin-map-dev", "absl-map": "libabsl-dev"}

_AT, _COUNT, _STRIDE = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_ssize_t
#: Function → what it returns and takes; see native/.
_SIGNATURES: dict[str, tuple[type | None, *tuple[type, ...]]] = {
    "pepnet_peers": (ctypes.c_char_p,),
    "pepnet_dense_make": (_AT, _COUNT, _COUNT),
    "pepnet_dense_data": (_AT, _AT),
    "pepnet_dense_free": (None, _AT),
    "pepnet_widest": (ctypes.c_uint32,),
    "pepnet_dense_gather": (None, _AT, _AT, _COUNT, _AT, _STRIDE, _COUNT, _COUNT),
    "pepnet_cache_make": (_AT, ctypes.c_char_p, _COUNT, _COUNT),
    "pepnet_cache_insert": (ctypes.c_int, _AT, _AT, _AT, _COUNT),
    "pepnet_cache_lookup": (_COUNT, _AT, _AT, _COUNT, _AT, _STRIDE),
    "pepnet_cache_size": (_COUNT, _AT),
    "pepnet_cache_free": (None, _AT),
}


@dataclass(frozen=True)
class Gather:
    """How the floor copies: rows asked for before they are copied, and bytes a move."""

    ahead: int
    width: int


class PeerLibrary:
    """The library's functions. Raises PepnetError for a file that is not it."""

    def __init__(self, path: Path) -> None:
        try:
            self.functions = ctypes.CDLL(str(path.resolve()))
            for name, (result, *arguments) in _SIGNATURES.items():
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
        gather, handle = self._functions.pepnet_dense_gather, self._handle
        parts, outs = _addresses(destination), [part.out for part in destination]

        def call(batch: Batch) -> Sequence[Floats]:
            positions = batch.positions.ctypes.data
            for begin, count, out, stride in parts:
                gather(handle, positions + begin, count, out, stride, how.ahead, how.width)
            return outs

        what = f"C++ gather of known positions, {how.ahead} rows ahead, moves of {how.width} bytes"
        return Contender(name, what, call)


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
