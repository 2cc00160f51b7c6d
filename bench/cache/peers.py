"""What looks up a batch of ids: our cache, NumPy, and in C++ the floor and the textbook LRU.

The C++ is a small library of plain functions, built by `make bench-cache` and loaded with ctypes, which drops the GIL
around a call. Arrays are handed over as addresses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import PepnetError
from pepnet_infer.rows.cache.config import Policy
from pepnet_infer.rows.cache.embedding_cache import EmbeddingCache
from pepnet_infer.schema.ids import Keys, make_keys

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]

#: What a cache of so many rows is given besides the rows' bytes: metadata a row, and for a small cache a little more.
_ROW_METADATA, _FIXED = 24, 1 << 16
_CHUNK = 1 << 14
_UPDATES = 64  # that go round before one comes again, with newer versions
_HUGE = 2 << 20  # bytes of a huge page
_AT, _COUNT = ctypes.c_void_p, ctypes.c_size_t
#: Function → what it returns and takes; see native/peers.cc.
_SIGNATURES: dict[str, tuple[type | None, *tuple[type, ...]]] = {
    "pepnet_gather": (None, _AT, _COUNT, _AT, _COUNT, _AT, _COUNT),
    "pepnet_lru_make": (_AT, _AT, _COUNT, _AT, _COUNT),
    "pepnet_lru_lookup": (_COUNT, _AT, _AT, _COUNT, _AT, _COUNT),
    "pepnet_lru_free": (None, _AT),
}


@dataclass(frozen=True)
class Batch:
    """One call's ids, each in the form that one of the contenders takes, so that none has to convert."""

    positions: Positions  # [rows] in the table
    keys: Keys  # [rows]

    def check(self, found: Floats, table: Floats) -> None:
        """Raises PepnetError unless `found` holds the batch's rows of `table`."""
        if not np.array_equal(found, table[self.positions]):
            raise PepnetError("expected the table's rows, got others")


#: A way to look up a batch. Returns the rows [rows, dim], the same array again and again, or raises.
Call = Callable[[Batch], Floats]


class PeerLibrary:
    """The peers in C++. Raises PepnetError for a file that is not their library."""

    def __init__(self, path: Path) -> None:
        try:
            self._functions = ctypes.CDLL(str(path.resolve()))
            for name, (result, *arguments) in _SIGNATURES.items():
                function = getattr(self._functions, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            raise PepnetError(f"{path}: expected the library that `make bench-cache` builds, got: {error}") from error

    def floor(self, table: Floats, rows: int, ahead: int) -> Call:
        """The gather of known positions, for batches of `rows` rows, with `ahead` of them asked for early."""
        gather, out = self._functions.pepnet_gather, np.zeros((rows, table.shape[1]), np.float32)
        at, row_bytes = table.ctypes.data, table.strides[0]

        def call(batch: Batch) -> Floats:
            gather(at, row_bytes, batch.positions.ctypes.data, rows, out.ctypes.data, ahead)
            return out

        return call

    @contextmanager
    def list_lru(self, keys: Keys, table: Floats, rows: int) -> Iterator[Call]:
        """A std::unordered_map and a std::list with all rows of a table, for batches of `rows` rows."""
        functions, out, row_bytes = self._functions, np.zeros((rows, table.shape[1]), np.float32), table.strides[0]
        handle = functions.pepnet_lru_make(table.ctypes.data, row_bytes, keys.ctypes.data, len(keys))
        if handle is None:
            raise MemoryError(f"an LRU of {len(keys)} rows")

        def call(batch: Batch) -> Floats:
            found = functions.pepnet_lru_lookup(handle, batch.keys.ctypes.data, rows, out.ctypes.data, row_bytes)
            if found != rows:
                raise PepnetError(f"list-lru: expected {rows} hits, got {found}")
            return out

        try:
            yield call
        finally:
            functions.pepnet_lru_free(handle)


@dataclass(frozen=True)
class FilledCache:
    """A cache that was offered every row of a table once, and the positions of those that stayed, ascending."""

    cache: EmbeddingCache
    resident: Positions
    table: Floats

    def reader(self, batch_rows: int) -> Call:
        """Returns `EmbeddingCache.lookup`, which also makes the array of what was found."""
        lookup, out = self.cache.lookup, np.zeros((batch_rows, self.cache.dim), np.float32)

        def call(batch: Batch) -> Floats:
            if not lookup(batch.keys, out).all():
                raise PepnetError("cache: expected hits only")
            return out

        return call

    def updates(self, keys: Keys, table: Floats, rows: int) -> Callable[[object], None]:
        """Returns what writes newer versions of so many rows that are in the cache. Their content stays the table's.

        A call raises PepnetError when not all of its rows were taken.
        """
        rng, write, versions = np.random.default_rng(0), self.cache.core.write, count(2)
        drawn = [rng.choice(self.resident, rows, replace=False) for _ in range(_UPDATES)]
        turns = cycle([(keys[at], table[at]) for at in drawn])

        def call(_: object) -> None:
            batch, values = next(turns)
            applied = write(batch, values, None, np.full(rows, next(versions), np.uint64), None, True)
            if applied != rows:
                raise PepnetError(f"updates: expected {rows} applied, got {applied}")

        return call


def fill(keys: Keys, table: Floats, policy: Policy, seed: int = 0) -> FilledCache:
    """Returns a cache whose budget is the table's bytes and the metadata of as many rows, after one insert of each.

    Scores, where the policy keeps them, are drawn log-normal. Which rows stayed is asked without being counted.
    """
    rows, dim = table.shape
    cache = EmbeddingCache(dim, rows * (dim * 4 + _ROW_METADATA) + _FIXED, policy=policy, seed=seed)
    rng = np.random.default_rng(seed)
    for begin in range(0, rows, _CHUNK):
        part, size = slice(begin, begin + _CHUNK), min(_CHUNK, rows - begin)
        scores = rng.lognormal(0, 1, size).astype(np.float32) if policy == "gset" else None
        cache.insert(keys[part], table[part], scores=scores, versions=np.ones(size, np.uint64))
    return FilledCache(cache, np.flatnonzero(is_cached(cache, keys)), table)


def random_table(rows: int, dim: int, rng: np.random.Generator) -> Floats:
    """Returns a table of random numbers on the same kind of pages as the cache's rows."""
    memory = np.empty(rows * dim + _HUGE // 4, np.float32)  # NumPy asks for huge pages
    first = -memory.ctypes.data % _HUGE // 4
    table = memory[first : first + rows * dim].reshape(rows, dim)
    return rng.random(out=table, dtype=np.float32)


def is_cached(cache: EmbeddingCache, keys: Keys) -> npt.NDArray[np.bool_]:
    """Returns which keys have a row in the cache, without counting it as a use."""
    rows: npt.NDArray[np.bool_] = cache.core.peek(keys)["outcome"] == 1
    return rows


def random_keys(rows: int, rng: np.random.Generator) -> Keys:
    """Returns `rows` distinct keys of table 1 with random 48-bit ids."""
    return make_keys(1, rng.choice(1 << 48, rows, replace=False).astype(np.uint64))
