"""Bags pooled from a row cache, as a batch asks for them."""

from __future__ import annotations

import numpy as np

from pepnet_infer import _kernels


def look_up_bags(
    cache: _kernels.RowCache,
    keys: np.ndarray,
    offsets: np.ndarray,
    pooling: str,
    out: np.ndarray,
    outcomes: np.ndarray | None = None,
    counted: bool = True,
) -> int:
    """Returns how many of `keys` have a row; a bag with a key that has none is undefined in `out`."""
    if outcomes is None:
        outcomes = np.empty(len(keys), np.uint8)
    job = (cache, None, np.zeros(cache.dim, np.float32), keys, out, offsets, pooling, outcomes)
    return _kernels.look_up([job], counted)[0][0]  # type: ignore[list-item]
