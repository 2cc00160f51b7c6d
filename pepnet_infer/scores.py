"""What scoring returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import SchemaError


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one batch, rows in the order of the batch."""

    values: npt.NDArray[np.float32]  # [B, T], each in [0, 1] but in rows that are `invalid`
    tasks: tuple[str, ...]
    model_version: int
    #: field → how many of its ids the store does not have: they got the table's default row. Fields without one are
    #: left out
    unknown: Mapping[str, int] = field(default_factory=dict)
    #: field → how many of its ids got the default row because the store failed, was late, or was not waited for: with
    #: them the scores are not those that the model gives. Fields without one are left out
    unavailable: Mapping[str, int] = field(default_factory=dict)
    #: bool [B], true for rows of which a score is no number in [0, 1], so that none of that row may be used; None where
    #: there are no such rows. They come of inputs or rows so large that float32 overflows, or that are no numbers
    invalid: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def column(self, task: str) -> npt.NDArray[np.float32]:
        """Returns the scores of one task, float32 [B]. Raises SchemaError for a task the model does not have."""
        if task not in self.tasks:
            raise SchemaError(f"task: expected one of {', '.join(self.tasks)}, got {task!r}")
        return self.values[:, self.tasks.index(task)]

    def to_dict(self) -> dict[str, npt.NDArray[np.float32]]:
        """Returns task → scores float32 [B]."""
        return {task: self.values[:, i] for i, task in enumerate(self.tasks)}
