"""Matrices that `score_dense` must refuse, and say why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pepnet_infer import Engine, SchemaError

Matrices = list[Any]


@pytest.fixture(scope="module")
def engine(toy_bundle: Path) -> Iterator[Engine]:
    with Engine.load(toy_bundle) as engine:
        yield engine


@pytest.fixture
def good(engine: Engine) -> Matrices:
    widths, rng = engine.bundle.config.inputs, np.random.default_rng(0)
    return [rng.standard_normal((5, w), np.float32) for w in (widths.general, widths.domain, widths.prior)]


def changed(good: Matrices, place: int, change: Callable[[Any], Any]) -> Matrices:
    return [change(matrix) if i == place else matrix for i, matrix in enumerate(good)]


def spoiled(value: float, row: int, column: int) -> Callable[[Any], Any]:
    def change(matrix: Any) -> Any:
        copy = matrix.copy()
        copy[row, column] = value
        return copy

    return change


CASES: list[tuple[int, Callable[[Any], Any], str]] = [
    (0, lambda m: m.tolist(), r"general: expected a float32 array \[rows, 21\], got list"),
    (1, lambda m: None, r"domain: expected a float32 array \[rows, 4\], got NoneType"),
    (0, lambda m: m.astype(np.float64), r"general: expected float32, got float64"),
    (1, lambda m: m.astype(np.float16), r"domain: expected float32, got float16"),
    (2, lambda m: m.astype(">f4"), r"prior: expected float32, got >f4"),
    (2, lambda m: m.astype(np.int32), r"prior: expected float32, got int32"),
    (0, lambda m: m.astype(object), r"general: expected float32, got object"),
    (0, lambda m: m[:, :-1], r"general: expected shape \[rows, 21\], got \[5, 20\]"),
    (0, lambda m: m.T.copy(), r"general: expected shape \[rows, 21\], got \[21, 5\]"),
    (1, lambda m: m[0], r"domain: expected shape \[rows, 4\], got \[4\]"),
    (2, lambda m: m[None], r"prior: expected shape \[rows, 11\], got \[1, 5, 11\]"),
    (1, lambda m: m[:3], r"domain: expected 5 rows as in general, got 3"),
    (2, lambda m: m[:0], r"prior: expected 5 rows as in general, got 0"),
    (0, spoiled(np.nan, 3, 17), r"general: expected finite values, got nan at row 3, column 17"),
    (1, spoiled(np.inf, 0, 3), r"domain: expected finite values, got inf at row 0, column 3"),
    (2, spoiled(-np.inf, 4, 0), r"prior: expected finite values, got -inf at row 4, column 0"),
]


@pytest.mark.parametrize(("place", "change", "message"), CASES, ids=[case[2][:60] for case in CASES])
def test_is_refused(engine: Engine, good: Matrices, place: int, change: Callable[[Any], Any], message: str) -> None:
    before = engine.stats()
    with pytest.raises(SchemaError, match=message):
        engine.score_dense(*changed(good, place, change))
    after = engine.stats()
    assert after["errors"] == before["errors"] + 1
    assert after["rows"] == before["rows"]


def test_large_finite_values_are_no_fault(engine: Engine, good: Matrices) -> None:
    for matrix in good:
        matrix[:] = 3e38  # the sum of a row is infinite, no value is
    assert engine.score_dense(*good).shape == (5, 2)


def test_what_is_given_is_not_written_to(engine: Engine, good: Matrices) -> None:
    copies = [matrix.copy() for matrix in good]
    for matrix in good:
        matrix.flags.writeable = False
    engine.score_dense(*good)
    assert all(np.array_equal(a, b) for a, b in zip(good, copies, strict=True))
