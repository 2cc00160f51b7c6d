"""Kernels that give wrong scores, on one instruction set and in one precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pepnet_infer import _kernels
from pepnet_infer.backends.native import NativeBackend, choose_isa
from pepnet_infer.backends.protocol import Settings
from pepnet_infer.bundle.bundle import Bundle

Change = Callable[[np.ndarray], np.ndarray]
USABLE = {
    p: [i["isa"] for i in _kernels.isas() if i["precision"] == p and i["usable"]] for p in ("fp32", "bf16", "int8")
}
ABSENT = [i for i in _kernels.isas() if not i["usable"]]


def sabotage(monkeypatch: pytest.MonkeyPatch, precision: str, isa: str, change: Change) -> None:
    """Lets the native backend give other scores on one instruction set in one precision."""
    make, run = NativeBackend.__init__, NativeBackend.run
    meant: set[int] = set()

    # What was asked for, not what runs: fp32 on AMX has the kernels of AVX-512.
    def made(self: NativeBackend, bundle: Bundle, settings: Settings) -> None:
        make(self, bundle, settings)
        asked = str(settings.options.get("isa") or choose_isa(settings)["isa"])
        if (settings.precision, asked) == (precision, isa):
            meant.add(id(self))
        else:
            meant.discard(id(self))

    def wrong(self: NativeBackend, inputs: Any) -> np.ndarray:
        scores = run(self, inputs)
        return change(scores) if id(self) in meant else scores

    monkeypatch.setattr(NativeBackend, "__init__", made)
    monkeypatch.setattr(NativeBackend, "run", wrong)


def shifted(by: float, place: int = -1) -> Change:
    """Moves the score of the last task of one row."""

    def change(scores: np.ndarray) -> np.ndarray:
        scores = scores.copy()
        scores[place, -1] += by
        return scores

    return change
