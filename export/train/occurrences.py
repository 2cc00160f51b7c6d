"""Sums over the occurrences of ids in a log, by code."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def sums_by_code(
    size: int,
    weights: npt.NDArray[np.float64],
    ids: list[npt.NDArray[np.int32]],
    bags: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]],
) -> npt.NDArray[np.float64]:
    """Returns the sum of the weights of the rows that each code occurs in, once for each time: float64 [size].

    weights [N]. ids: code [N] per id field. bags: (codes [n], offsets [N+1]) per bag field.
    """
    sums = np.zeros(size)
    for codes in ids:
        sums += np.bincount(codes, weights=weights, minlength=size)
    for codes, offsets in bags:
        sums += np.bincount(codes, weights=np.repeat(weights, np.diff(offsets)), minlength=size)
    return sums
