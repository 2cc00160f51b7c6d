"""One comparison with float64: figures that NumPy computes by hand, and the first score that is off."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pepnet_infer.bundle.accuracy import BUDGETS, Difference, check_budget, delta_auc, excess, within
from pepnet_infer.errors import BundleError

EXPECTED = np.linspace(0.1, 0.9, 400).reshape(200, 2)


def test_figures_are_those_of_the_differences() -> None:
    scores = (EXPECTED + np.random.default_rng(0).normal(0, 1e-3, EXPECTED.shape)).astype(np.float32)
    off = np.abs(scores.astype(np.float64) - EXPECTED)
    found = Difference.of(scores, EXPECTED)
    assert (found.rows, found.max_abs) == (200, off.max())
    assert found.rms == pytest.approx(math.sqrt((off**2).mean()), rel=1e-12)
    assert found.tasks == tuple(off.max(axis=0))
    assert Difference.of(scores[:0], EXPECTED[:0]).max_abs == 0.0


@pytest.mark.parametrize("wrong", [0.5, math.nan])
def test_the_first_score_that_is_off_is_named(wrong: float) -> None:
    scores = EXPECTED.astype(np.float32)
    assert within(scores, EXPECTED, ("click", "like"), "here").max_abs < 1e-7
    scores[7, 1] = wrong
    with pytest.raises(BundleError, match=rf"^here: task 'like': expected 0\.1\d+ within 1e-05, got {wrong} at row 7$"):
        within(scores, EXPECTED, ("click", "like"), "here")


def test_order_lost_is_none_without_pairs_and_never_above_zero() -> None:
    assert delta_auc(EXPECTED, EXPECTED, ("click", "like")) == {"click": 0.0, "like": 0.0}
    lost = delta_auc(EXPECTED[::-1], EXPECTED, ("click", "like"))
    assert all(value is not None and value < -0.1 for value in lost.values())
    assert delta_auc(np.ones((3, 1)), np.ones((3, 1)), ("click",)) == {"click": None}


def test_budgets() -> None:
    for precision, budget in (*BUDGETS.items(), ("int8", {"max_abs": 1, "delta_auc": 1})):
        check_budget("m", precision, budget)
    budget: object
    for precision, budget, said in (
        ("fp8", {}, "m: expected bf16 or int8, got 'fp8'"),
        ("int8", {"max_abs": 0.1}, "m: int8: expected max_abs, delta_auc, got max_abs"),
        ("int8", {"max_abs": 0.1, "delta_auc": -1}, "m: int8.delta_auc: expected a number above 0, got -1"),
        ("int8", [], r"m: int8: expected a mapping to a number above 0, got \[\]"),
    ):
        with pytest.raises(BundleError, match=f"^{said}$"):
            check_budget("m", precision, budget)
    assert excess({"max_abs": 0.1, "rms": 1.0}, {"max_abs": 0.2, "rms": None}) == ["max_abs 0.2, allowed 0.1"]
