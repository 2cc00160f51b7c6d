"""The three matrices that the dense part of a model reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Inputs:
    """What the dense part reads: three C-contiguous float32 matrices of B rows, of width 0 where a schema has none."""

    general: Matrix
    domain: Matrix
    prior: Matrix
    _: KW_ONLY
    #: field → how many of its ids the store does not have; they got the table's default row. Fields without one are
    #: left out
    unknown: Mapping[str, int] = field(default_factory=dict)
    #: field → how many of its ids got the default row because the store failed or did not answer in time
    unavailable: Mapping[str, int] = field(default_factory=dict)
    #: fields whose columns are the same in every row, because a request gave them once
    shared: frozenset[str] = frozenset()

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.general)

    @property
    def matrices(self) -> tuple[Matrix, Matrix, Matrix]:
        """General, domain and prior."""
        return self.general, self.domain, self.prior

    def rows(self, at: slice) -> Inputs:
        """Returns views of some rows, without what is known of their ids."""
        return Inputs(*(matrix[at] for matrix in self.matrices))
