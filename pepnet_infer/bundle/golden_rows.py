"""Golden rows: inputs that every machine generates identically from a seed. `parity.json` stores their scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pepnet_infer.bundle.accuracy import Scores, within
from pepnet_infer.errors import BundleError
from pepnet_infer.schema.feature_schema import INPUTS
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.schema.network_config import InputWidths

Run = Callable[[Inputs], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Reference:
    """Rows and their scores in float64."""

    inputs: Inputs
    scores: Scores

    def first(self, rows: int) -> Reference:
        """The first `rows` of them."""
        return Reference(self.inputs.rows(slice(rows)), self.scores[:rows])

    def compare(self, run: Run, where: str, tasks: tuple[str, ...], tolerance: float, same_bits: bool) -> float:
        """Scores one by one and in one batch, which must give the same bits if asked, and returns the largest
        difference. Raises BundleError when one is more than `tolerance`.
        """
        rows = [slice(row, row + 1) for row in range(len(self.scores))]
        one_by_one = np.concatenate([run(self.inputs.rows(row)) for row in rows])
        in_one = run(self.inputs)
        worst = max(
            within(scores, self.scores, tasks, f"{where}: golden rows {how}", tolerance).max_abs
            for how, scores in (("one by one", one_by_one), ("in one batch", in_one))
        )
        if same_bits and not np.array_equal(one_by_one, in_one):
            row, task = np.argwhere(one_by_one != in_one)[0]
            raise BundleError(
                f"golden rows: task {tasks[task]!r}: expected the same bits one by one and in one batch, "
                f"got {one_by_one[row, task]:.9g} and {in_one[row, task]:.9g} at row {row}",
                within=where,
            )
        return worst


def normal_inputs(widths: InputWidths, rows: int, seed: int) -> Inputs:
    """Returns standard normal inputs [rows, ·]. The first n rows do not depend on how many follow."""
    return Inputs(*(_normal(rows, getattr(widths, name), seed, stream) for stream, name in enumerate(INPUTS, 1)))


def _normal(rows: int, width: int, seed: int, stream: int) -> npt.NDArray[np.float32]:
    """Box-Muller on the raw words of Philox, a stream that NumPy keeps from version to version, unlike `normal`'s."""
    raw = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)).random_raw(2 * rows * width)
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # inside (0, 1)
    first, second = uniform.reshape(-1, 2).T
    normal = np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)
    return normal.astype(np.float32).reshape(rows, width)
