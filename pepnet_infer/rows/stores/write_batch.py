"""What a writable store is handed, checked, and cut so that no key comes twice in a part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import StoreError
from pepnet_infer.rows.protocols import NO_TABLE, Rows
from pepnet_infer.schema.ids import ID_BITS, Keys
from pepnet_infer.schema.row_batch import Positions, RowBatch


def checked_batch(
    keys: Keys,
    rows: Rows,
    versions: npt.NDArray[np.uint64],
    scores: npt.NDArray[np.float32] | None,
    expires: npt.NDArray[np.float64] | None,
) -> RowBatch:
    """Returns the arguments of `put_many` with what was left out filled in. Raises StoreError where they do not fit."""
    check_deletion(keys, versions)
    if rows.dtype != np.float32 or rows.ndim != 2 or len(rows) != keys.size or rows.shape[1] == 0:
        raise StoreError(f"rows: expected float32 [{keys.size}, dim], got {_show(rows)}")
    batch = RowBatch.of(rows, keys=keys, versions=versions, scores=scores, expires=expires)
    problem = batch.misfit(keys.size, rows.shape[1]) or nan_expiry(batch.expires)
    if problem is not None:
        raise StoreError(problem)
    return batch


def nan_expiry(expires: npt.NDArray[np.float64]) -> str | None:
    """Returns what is wrong with times of expiry, None where nothing is."""
    nan = np.isnan(expires)
    return f"expires[{int(np.argmax(nan))}]: expected Unix seconds or inf, got NaN" if nan.any() else None


def check_keys(keys: Keys) -> None:
    """Raises StoreError unless `keys` are uint64 [N]."""
    if keys.dtype != np.uint64 or keys.ndim != 1:
        raise StoreError(f"keys: expected uint64 [N], got {_show(keys)}")


def check_deletion(keys: Keys, versions: npt.NDArray[np.uint64]) -> None:
    """Raises StoreError unless both are uint64 [N], and every key of a table that can be."""
    check_keys(keys)
    if versions.dtype != np.uint64 or versions.shape != keys.shape:
        raise StoreError(f"versions: expected uint64 [{keys.size}], got {_show(versions)}")
    if keys.size and int(keys.max()) >> ID_BITS == NO_TABLE:
        raise StoreError(f"keys[{int(np.argmax(keys))}]: expected a table number below {NO_TABLE}, got {keys.max()}")


def rounds(keys: Keys) -> Iterator[Positions]:
    """Yields positions so that keys are distinct and ascending within a round, and each key's come in their order."""
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    starts = np.append(True, sorted_keys[1:] != sorted_keys[:-1])[: keys.size]
    if starts.all():
        if keys.size:
            yield order
        return
    begins = np.flatnonzero(starts)
    nth = np.arange(keys.size) - begins[np.cumsum(starts) - 1]
    for n in range(int(nth.max()) + 1):
        yield order[nth == n]


def _show(array: npt.NDArray[np.generic]) -> str:
    return f"{array.dtype.name} {list(array.shape)}"
