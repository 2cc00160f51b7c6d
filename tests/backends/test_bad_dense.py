"""Matrices that `score_dense` must refuse, and say why; and values that it must not let out of their row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pepnet_infer import Engine, SchemaError, _kernels
from pepnet_infer.bundle.golden_rows import normal_inputs

pytestmark = pytest.mark.hostile

Matrices = list[Any]
ISAS = [t["isa"] for t in _kernels.isas() if t["usable"] and t["precision"] == "fp32"]


@pytest.fixture(scope="module")
def engine(toy_bundle: Path) -> Iterator[Engine]:
    with Engine.load(toy_bundle, backend="native", threads=2) as engine:
        yield engine


@pytest.fixture
def good(engine: Engine) -> Matrices:
    widths, rng = engine.bundle.config.inputs, np.random.default_rng(0)
    return [rng.standard_normal((5, w), np.float32) for w in (widths.general, widths.domain, widths.prior)]


def changed(good: Matrices, place: int, change: Callable[[Any], Any]) -> Matrices:
    return [change(matrix) if i == place else matrix for i, matrix in enumerate(good)]


CASES: list[tuple[int, Callable[[Any], Any], str]] = [
    (0, lambda m: m.tolist(), r"general: expected a float32 array \[rows, 21\], got list"),
    (1, lambda m: None, r"domain: expected a float32 array \[rows, 4\], got NoneType"),
    (0, lambda m: m.astype(np.float64), r"general: expected float32, got float64"),
    (1, lambda m: m.astype(np.float16), r"domain: expected float32, got float16"),
    (2, lambda m: m.astype(">f4"), r"prior: expected float32, got >f4"),
    (2, lambda m: m.astype(np.int32), r"prior: expected float32, got int32"),
    (0, lambda m: m.astype(object), r"general: expected float32, got object"),
    (2, lambda m: np.ma.array(m, mask=m == m[3, 2]), "prior: expected no masked values, got 1"),
    (0, lambda m: m[:, :-1], r"general: expected shape \[rows, 21\], got \[5, 20\]"),
    (0, lambda m: m.T.copy(), r"general: expected shape \[rows, 21\], got \[21, 5\]"),
    (1, lambda m: m[0], r"domain: expected shape \[rows, 4\], got \[4\]"),
    (2, lambda m: m[None], r"prior: expected shape \[rows, 11\], got \[1, 5, 11\]"),
    (1, lambda m: m[:3], r"domain: expected 5 rows as in general, got 3"),
    (2, lambda m: m[:0], r"prior: expected 5 rows as in general, got 0"),
]


@pytest.mark.parametrize(("place", "change", "message"), CASES, ids=[case[2][:60] for case in CASES])
def test_is_refused(engine: Engine, good: Matrices, place: int, change: Callable[[Any], Any], message: str) -> None:
    before = engine.stats()
    with pytest.raises(SchemaError, match=message):
        engine.score_dense(*changed(good, place, change))
    after = engine.stats()
    assert after["errors"] == before["errors"] + 1
    assert after["rows"] == before["rows"]


def test_subclasses_of_arrays_are_arrays(engine: Engine, good: Matrices) -> None:
    unmasked, matrix = np.ma.array(good[1], mask=False), good[2].view(np.matrix)
    np.testing.assert_array_equal(engine.score_dense(good[0], unmasked, matrix), engine.score_dense(*good))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_what_is_not_finite_stays_in_its_row(toy_bundle: Path, precision: str, isa: str, value: float) -> None:
    options = {"isa": isa, "unchecked": True}
    with Engine.load(
        toy_bundle, backend="native", precision=precision, threads=2, check="sizes", options=options
    ) as engine:
        inputs = normal_inputs(engine.bundle.config.inputs, 40, 1)
        matrices = [inputs.general, inputs.domain, inputs.prior]
        expected = engine.score_dense(*matrices)
        assert np.isfinite(expected).all()
        for place, column in ((0, 17), (1, 0), (2, 10)):
            spoilt = [matrix.copy() for matrix in matrices]
            spoilt[place][(3, 22, 39), column] = value
            scores = engine.score_dense(*spoilt)
            others = np.setdiff1d(np.arange(40), (3, 22, 39))
            assert scores[others].tobytes() == expected[others].tobytes()
            assert not np.isinf(scores).any()
            if np.isnan(value):
                assert np.isnan(scores[[3, 22, 39]]).all()


def test_nan_and_infinity_come_out_as_the_formulas_say(toy_bundle: Path, reference_scores: Any) -> None:
    with Engine.load(toy_bundle, backend="native", check="sizes") as engine:
        inputs = normal_inputs(engine.bundle.config.inputs, 8, 2)
        matrices = [inputs.general, inputs.domain, inputs.prior]
        for row, value in ((1, np.nan), (4, np.inf), (6, -np.inf)):
            matrices[0][row, 5] = value
        with np.errstate(all="ignore"):
            expected = reference_scores(engine.bundle.config, engine.bundle.dense(), *matrices)
        scores = engine.score_dense(*matrices)
        assert np.array_equal(np.isnan(scores), np.isnan(expected))
        assert np.isnan(scores[1]).all()
        np.testing.assert_allclose(scores, expected, rtol=0, atol=5e-6)


def test_views_are_copied_and_score_alike(engine: Engine, good: Matrices) -> None:
    expected = engine.score_dense(*good)
    wide = [np.full((10, 2 * m.shape[1]), np.nan, np.float32) for m in good]
    for view, matrix in zip(wide, good, strict=True):
        view[::2, ::2] = matrix
    assert np.array_equal(engine.score_dense(*(view[::2, ::2] for view in wide)), expected)
    turned = [np.ascontiguousarray(m[::-1])[::-1] for m in good]
    assert np.array_equal(engine.score_dense(*turned), expected)
    shifted = []
    for matrix in good:
        raw = np.empty(matrix.nbytes + 1, np.uint8)
        odd = raw[1:].view(np.float32).reshape(matrix.shape)
        odd[:] = matrix
        shifted.append(odd)
    assert not any(m.flags.aligned for m in shifted if m.size)
    assert np.array_equal(engine.score_dense(*shifted), expected)


def test_ten_to_the_sixth_rows_and_none(engine: Engine) -> None:
    widths = engine.bundle.config.inputs
    rows = 1_000_000
    one = normal_inputs(widths, 1000, 3)
    matrices = [np.tile(m, (rows // 1000, 1)) for m in (one.general, one.domain, one.prior)]
    scores = engine.score_dense(*matrices)
    assert scores.shape == (rows, 2)
    block = engine.score_dense(one.general, one.domain, one.prior)
    assert np.array_equal(scores.reshape(-1, 1000, 2), np.broadcast_to(block, (rows // 1000, 1000, 2)))
    assert engine.score_dense(*(m[:0] for m in matrices)).shape == (0, 2)


def test_what_is_given_is_not_written_to(engine: Engine, good: Matrices) -> None:
    copies = [matrix.copy() for matrix in good]
    for matrix in good:
        matrix.flags.writeable = False
    engine.score_dense(*good)
    assert all(np.array_equal(a, b) for a, b in zip(good, copies, strict=True))
