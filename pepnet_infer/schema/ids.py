"""Keys: a uint64 with the table's number in the top 16 bits and the id in the low 48.

Integer ids in [0, 2^48) are exact. In a hashed field, wider integers, negative integers and strings become the low
48 bits of their XXH3-64 (integers as 8 little-endian bytes, strings as UTF-8).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import xxhash

Keys = npt.NDArray[np.uint64]

ID_BITS = 48
MAX_ID = 1 << ID_BITS
MAX_TABLES = 0xFFFF
#: The key of "no id here" (a null, an unknown entity). Table number 0xFFFF is never given to a table, so no table
#: holds it and every lookup of it returns the table's default row.
MISSING_KEY = np.uint64(0xFFFF_FFFF_FFFF_FFFF)

_ID_MASK = np.uint64(MAX_ID - 1)


def make_keys(table: int, ids: npt.NDArray[np.uint64]) -> Keys:
    """Returns the keys of `ids` (uint64, below 2^48) in table number `table`."""
    if not 0 <= table < MAX_TABLES:
        raise ValueError(f"table number: expected 0 to {MAX_TABLES - 1}, got {table}")
    return ids | np.uint64(table << ID_BITS)


def hash_strings(values: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Returns the 48-bit ids of `values`. Callers with repeats pass the distinct values only."""
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(v.encode()) for v in values), dtype=np.uint64) & _ID_MASK


def hash_integers(values: npt.NDArray[np.int64] | npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Returns ids: values in [0, 2^48) as they are, all others as the 48-bit hash of their 8 little-endian bytes."""
    ids = values.astype(np.uint64)
    wide = ids >= np.uint64(MAX_ID)
    if wide.any():
        digest = xxhash.xxh3_64_intdigest
        hashed = (digest(int(v).to_bytes(8, "little")) for v in ids[wide])
        ids[wide] = np.fromiter(hashed, dtype=np.uint64) & _ID_MASK
    return ids
