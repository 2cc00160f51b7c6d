"""Kernels that give wrong scores, on one instruction set and in one precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pepnet_infer import _kernels
from pepnet_infer.backends.native import NativeBackend

Change = Callable[[np.ndarray], np.ndarray]
USABLE = {
    p: [i["isa"] for i in _kernels.isas() if i["precision"] == p and i["usable"]] for p in ("fp32", "bf16", "int8")
}
ABSENT = [i for i in _kernels.isas() if not i["usable"]]


def sabotage(monkeypatch: pytest.MonkeyPatch, precision: str, isa: str, change: Change) -> None:
    """Lets the native backend give other scores on one instruction set in one precision."""
    run = NativeBackend.run

    def wrong(self: NativeBackend, inputs: Any) -> np.ndarray:
        scores = run(self, inputs)
        asked = self.describe()
        return change(scores) if (asked["precision"], asked["isa"]) == (precision, isa) else scores

    monkeypatch.setattr(NativeBackend, "run", wrong)


def shifted(by: float, place: int = -1) -> Change:
    """Moves the score of the last task of one row."""

    def change(scores: np.ndarray) -> np.ndarray:
        scores = scores.copy()
        scores[place, -1] += by
        return scores

    return change
