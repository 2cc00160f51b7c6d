"""What scoring returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pepnet_infer.errors import ConfigError, SchemaError
from pepnet_infer.quoting import quote

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """Scores of one batch, a row for each of its B rows and a column for each of T tasks.

    It can be given to whatever takes an array (`np.asarray(scores)` is `values`, without a copy), and to pandas and
    Arrow by `to_pandas` and `to_arrow`.
    """

    #: float32 [B, T], each in [0, 1] but in rows that are `invalid`
    values: npt.NDArray[np.float32]
    #: The targets, in the order of the columns.
    tasks: tuple[str, ...]
    #: The version of the model that scored all of them.
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
    #: int64 [B], which row of the batch each of these is; None: they are in the batch's own order
    order: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Returns `values` for NumPy; a copy only where another type, or `copy`, asks for one.

        Raises ValueError for another type with copy=False.
        """
        return np.array(self.values, dtype, copy=copy)

    def __repr__(self) -> str:
        said = [f"{len(self)} rows", f"tasks {', '.join(self.tasks)}", f"model_version {self.model_version}"]
        for name, counts in (("unknown", self.unknown), ("unavailable", self.unavailable)):
            if counts:
                said.append(f"{name} {dict(counts)}")
        if self.invalid is not None:
            said.append(f"{np.count_nonzero(self.invalid)} rows invalid")
        return f"<Scores: {'; '.join(said)}>"

    def column(self, task: str) -> npt.NDArray[np.float32]:
        """Returns the scores of one task, float32 [B]. Raises SchemaError for a task the model does not have."""
        if task not in self.tasks:
            raise SchemaError(f"task: expected one of {', '.join(self.tasks)}, got {quote(task)}")
        return self.values[:, self.tasks.index(task)]

    def to_dict(self) -> dict[str, npt.NDArray[np.float32]]:
        """Returns task → scores float32 [B]."""
        return {task: self.values[:, i] for i, task in enumerate(self.tasks)}

    def to_arrow(self) -> pa.Table:
        """Returns a table with a float32 column for each task, in the order of `tasks`."""
        return pa.table({task: pa.array(np.ascontiguousarray(column)) for task, column in self.to_dict().items()})

    def to_pandas(self, index: object = None) -> pd.DataFrame:
        """Returns a data frame with a float32 column for each task.

        index: its index, of B labels, that of the batch for one; None numbers the rows as the batch has them. Raises
        ImportError where there is no pandas.
        """
        import pandas as pd

        if index is None and self.order is not None:
            index = self.order
        frame: pd.DataFrame = pd.DataFrame(self.values, index=index, columns=list(self.tasks))  # type: ignore[call-overload]
        return frame

    def top(self, k: int | None, task: str) -> Scores:
        """Returns the rows of the k highest scores of a task, the highest first, rows of one score as they came.

        k: how many at most; None is all. Rows that are `invalid` are left out. `order` says which rows of the batch
        they are. Raises SchemaError for a task the model does not have, ConfigError for a k that is no count.
        """
        if k is not None and (not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 0):
            raise ConfigError(f"top: expected a number of rows, got {quote(k)}")
        column = self.column(task)
        rows = np.arange(len(column)) if self.invalid is None else np.flatnonzero(~self.invalid)
        best = rows[np.argsort(-column[rows], kind="stable")[:k]]
        order = best if self.order is None else self.order[best]
        return replace(self, values=self.values[best], order=order.astype(np.int64), invalid=None)
