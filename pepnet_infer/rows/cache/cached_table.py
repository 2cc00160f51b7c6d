"""A table of embedding rows as the cache sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class CachedTable:
    """A table of the bundle: what its keys, its rows and its default row are."""

    name: str
    number: int
    dim: int
    rows: int
    default_row: npt.NDArray[np.float32]  # [dim]
