"""Entries of a cache ↔ the records of a snapshot. Rows keep the cache's own dtype, so that nothing is rounded twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.schema.row_batch import Mask, RowBatch

Floats = npt.NDArray[np.float32]
Records = npt.NDArray[np.void]

#: How one number of a row lies in a record. bfloat16 is the upper half of a float32; int8 has a float32 scale a row.
_NUMBERS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int8": "<i1"}

# Bits of `flags`: what an entry is, in the lowest two, and what else is known of it.
ROW, NEGATIVE, TOMBSTONE = 1, 2, 3
_KIND = 0x03
_HIGH_PRIORITY = 0x04
_SCORED = 0x08
_KNOWN_FLAGS = _KIND | _HIGH_PRIORITY | _SCORED

_MISS, _ABSENT = 0, 2  # of Outcome


def record_type(dtype: str, dim: int) -> np.dtype[np.void]:
    """Returns the layout of one entry, little-endian and without gaps. Raises KeyError for an unknown dtype."""
    known: list[Any] = [("key", "<u8"), ("version", "<u8"), ("expires", "<f8"), ("score", "<f4"), ("flags", "u1")]
    scale = [("scale", "<f4")] if dtype == "int8" else []
    return np.dtype([*known, *scale, ("row", _NUMBERS[dtype], (dim,))])


def pack(part: _kernels.CachePart, dtype: str, dim: int) -> Records:
    """Returns the entries of a part as records, the one that would be evicted first in front."""
    live = np.flatnonzero(part["outcome"] != _MISS)
    chosen = live[np.argsort(part["order"][live], kind="stable")]
    records = np.zeros(len(chosen), record_type(dtype, dim))
    absent, tombstone = part["outcome"][chosen] == _ABSENT, part["tombstone"][chosen]
    records["key"] = part["keys"][chosen]
    records["version"] = part["version"][chosen]
    records["expires"] = part["expires"][chosen]
    records["score"] = part["score"][chosen]
    records["flags"] = (
        np.where(absent, np.where(tombstone, TOMBSTONE, NEGATIVE), ROW)
        | np.where(part["high_priority"][chosen], _HIGH_PRIORITY, 0)
        | np.where(part["scored"][chosen], _SCORED, 0)
    )
    _narrow(part["rows"][chosen], records, dtype)
    return records


def kinds(records: Records) -> npt.NDArray[np.uint8]:
    """Returns ROW, NEGATIVE or TOMBSTONE for each record."""
    kind: npt.NDArray[np.uint8] = records["flags"] & np.uint8(_KIND)
    return kind


def are_known(records: Records) -> bool:
    """Returns whether every record is an entry of a kind that there is."""
    flags = records["flags"]
    return bool(np.all((flags & np.uint8(_KIND) != 0) & (flags <= np.uint8(_KNOWN_FLAGS))))


def unpack(records: Records, dtype: str) -> RowBatch:
    """Returns records of one kind as `RowCache.write` takes them; a score of NaN: the policy keeps none."""
    return RowBatch.of(
        _widen(records, dtype),
        keys=records["key"].astype(np.uint64),
        versions=records["version"].astype(np.uint64),
        scores=records["score"].astype(np.float32),
        expires=records["expires"].astype(np.float64),
    )


def earned(records: Records) -> Mask:
    """Returns whether the score of each record is of accesses, and not one that was given."""
    counted: Mask = (records["flags"] & np.uint8(_SCORED)) == 0
    return counted


def _narrow(rows: Floats, records: Records, dtype: str) -> None:
    """Undoes the widening of `RowCache.part`: every number is one that `dtype` holds."""
    if dtype == "bfloat16":
        records["row"] = np.ascontiguousarray(rows).view(np.uint32) >> np.uint32(16)
    elif dtype == "int8":  # max|row| / 127, as the cache computes it; what it serves is finite
        scales = records["scale"] = np.abs(rows).max(axis=1, initial=0.0) / np.float32(127)
        records["row"] = np.rint(rows / np.where(scales > 0, scales, np.float32(1))[:, None])
    else:
        with np.errstate(over="ignore"):
            records["row"] = rows


def _widen(records: Records, dtype: str) -> Floats:
    stored = records["row"]
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    rows: Floats = stored.astype(np.float32)
    return rows * records["scale"][:, None] if dtype == "int8" else rows
