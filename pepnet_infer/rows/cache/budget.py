"""How the bytes of an engine's cache are divided between the widths of its tables."""

from __future__ import annotations

from collections.abc import Mapping

from pepnet_infer.errors import ConfigError
from pepnet_infer.rows.cache.config import Policy, RowDtype

#: Bytes beside those of the rows, in the smallest cache: places of readers, one region, one set, rounding.
_FIXED = 160 << 10
_METADATA = 24  # a row: 8 in its set, 16 before it
#: Slots for each row there may be. Rows spread unevenly over sets of 8: at a load of two thirds fewer than 1 in 10,000
#: find no place, at 0.9 it is 1 in 100, and each costs the batch that asks for it a question to the store.
_SLACK = 1.5
_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
_WAYS = 8


def bytes_for(rows: int, dim: int, dtype: RowDtype, policy: Policy) -> int:
    """Returns how many bytes hold `rows` rows of width `dim`, all of them with near certainty."""
    scale = 4 if dtype == "int8" else 0
    slot = (_SIZES[dtype] * dim + scale + 7) // 8 * 8 + _METADATA + (2 if policy == "s3fifo" else 0)
    return _FIXED + int((rows * _SLACK + _WAYS) * slot)


def divide(capacity: int, rows: Mapping[int, int], dtype: RowDtype, policy: Policy, bounded: bool) -> dict[int, int]:
    """Returns the bytes of each width, together at most `capacity`; rows: width → rows of the tables.

    Each has what its smallest cache takes, and of the rest in proportion to what all its rows take; with `bounded`
    never more than that. Raises ConfigError when the smallest caches do not fit.
    """
    least = {dim: bytes_for(0, dim, dtype, policy) for dim in rows}
    rest = capacity - sum(least.values())
    if rest < 0:
        widths = ", ".join(map(str, sorted(rows)))
        raise ConfigError(
            f"capacity: expected at least {sum(least.values())} bytes for tables of width {widths}, got {capacity}"
        )
    more = {dim: bytes_for(count, dim, dtype, policy) - least[dim] for dim, count in rows.items()}
    total = sum(more.values())
    given = {}
    for dim in rows:
        share = rest * more[dim] // total if total else rest // len(rows)
        given[dim] = least[dim] + (min(share, more[dim]) if bounded else share)
    return given
