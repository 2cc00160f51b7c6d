"""Sigmoid, mix, last layer and rounding of every table against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pepnet_infer import _kernels

pytestmark = pytest.mark.parity

Array = npt.NDArray[Any]
TABLES = [(entry["isa"], entry["precision"]) for entry in _kernels.isas() if entry["usable"]]
tables = pytest.mark.parametrize(("isa", "precision"), TABLES, ids=[f"{isa}-{precision}" for isa, precision in TABLES])
FLOAT32 = [table for table in TABLES if table[1] == "fp32"]


def sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-x.astype(np.float64))))


@pytest.mark.parametrize(("isa", "precision"), FLOAT32, ids=[isa for isa, _ in FLOAT32])
def test_sigmoid_over_all_exponents(isa: str, precision: str) -> None:
    """2^22 floats, equally spaced over all bit patterns, and 2^22 more where the function is neither 0 nor 1."""
    bits = np.arange(0, 2**32, 1024, dtype=np.uint64).astype(np.uint32) + np.uint32(331)
    x = np.concatenate([bits.view(np.float32), np.linspace(-90.0, 20.0, 2**22, dtype=np.float32)])
    got = _kernels.ops(isa, precision).sigmoid(x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x))
    x, got = x[~np.isnan(x)], got[~np.isnan(x)]
    want = sigmoid(x)
    error = np.abs(got - want)
    assert error.max() <= 9e-8
    normal = x > -88.7
    assert (error[normal] / np.spacing(want[normal].astype(np.float32))).max() <= 2.5
    assert error[~normal].max() <= 3e-39
    np.testing.assert_array_equal(_kernels.ops(isa, precision).sigmoid(np.float32([np.inf, -np.inf, 0.0])), [1, 0, 0.5])


@tables
def test_sigmoid_does_not_depend_on_the_place(isa: str, precision: str) -> None:
    ops = _kernels.ops(isa, precision)
    x = np.random.default_rng(0).standard_normal(100, dtype=np.float32)
    whole = ops.sigmoid(x)
    for n in (0, 1, 5, 8, 15, 16, 17, 31, 33, 99):
        np.testing.assert_array_equal(ops.sigmoid(x[:n]), whole[:n])
        np.testing.assert_array_equal(ops.sigmoid(x[n:]), whole[n:])


@tables
def test_mix(isa: str, precision: str) -> None:
    """Σ softmax(z)_e·h_e: shares within a few ulp each, sums of E terms, hence (E + 8)·2^-23 of Σ share·|h|."""
    ops = _kernels.ops(isa, precision)
    rng = np.random.default_rng(1)
    for experts, rows, width in [
        (1, 1, 1),
        (2, 3, 17),
        (8, 33, 40),
        (15, 2, 16),
        (17, 5, 65),
        (64, 3, 7),
        (130, 4, 31),
    ]:
        z = 4.0 * rng.standard_normal((rows, experts), dtype=np.float32)
        h = rng.standard_normal((experts, rows, width), dtype=np.float32)
        share = np.exp(z.astype(np.float64) - z.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        want = np.einsum("re,erw->rw", share, h.astype(np.float64))
        size = np.einsum("re,erw->rw", share, np.abs(h).astype(np.float64))
        got = ops.mix(z, h)
        assert (np.abs(got - want) <= (experts + 8) * 2.0**-23 * size).all(), (experts, rows, width)
        rows_alone = [ops.mix(z[r : r + 1], np.ascontiguousarray(h[:, r : r + 1])) for r in range(rows)]
        np.testing.assert_array_equal(np.concatenate(rows_alone), got)
    assert ops.mix(np.zeros((0, 3), np.float32), np.zeros((3, 0, 5), np.float32)).shape == (0, 5)


@tables
def test_mix_of_extremes(isa: str, precision: str) -> None:
    """A share that underflows is zero, equal logits of any size share equally, and a NaN stays in its row."""
    ops = _kernels.ops(isa, precision)
    h = np.float32([[[1.0], [1.0], [1.0], [1.0]], [[3.0], [3.0], [3.0], [3.0]]])
    z = np.float32([[500.0, -500.0], [3e38, 3e38], [np.nan, 0.0], [-200.0, -200.0]])
    got = ops.mix(z, h)[:, 0]
    np.testing.assert_array_equal(got[[0, 1, 3]], np.float32([1.0, 2.0, 2.0]))
    assert np.isnan(got[2])


@tables
def test_score(isa: str, precision: str) -> None:
    ops = _kernels.ops(isa, precision)
    rng = np.random.default_rng(2)
    for rows in (0, 1, 2, 7, 15, 16, 17, 31, 33, 255, 1000):
        for width in (1, 3, 16, 17, 31, 64, 129):
            h = rng.standard_normal((rows, width), dtype=np.float32)
            w = rng.standard_normal(width, dtype=np.float32) / np.float32(np.sqrt(width))
            size = np.abs(h).astype(np.float64) @ np.abs(w)
            want = sigmoid(h.astype(np.float64) @ w.astype(np.float64) + 0.3)
            tolerance = 2.0**-24 * ((width + 4) * (size + 0.3) / 4.0 + 4.0)
            got = ops.score(h, w, 0.3)
            assert (np.abs(got - want) <= tolerance).all(), (rows, width)
    assert np.isnan(ops.score(np.float32([[np.nan, 1.0]]), np.float32([1.0, 1.0]), 0.0)).all()


@tables
def test_rounding_of_activations(isa: str, precision: str) -> None:
    """bf16 to nearest even; float32 untouched; u8 within half a step, with a zero point only where it is needed."""
    ops = _kernels.ops(isa, precision)
    rng = np.random.default_rng(3)
    for n in (1, 3, 16, 17, 31, 64, 100, 1217):
        x = (rng.standard_normal((9, n)) * 10.0 ** rng.integers(-12, 12, (9, 1))).astype(np.float32)
        x[1] = np.abs(x[1])
        x[2] = -np.abs(x[2])
        x[3] = 0.0
        if ops.activation == "f32":
            np.testing.assert_array_equal(ops.convert(x), x)
        elif ops.activation == "bf16":
            x[4] = (np.uint32(0x3F808000) + np.uint32(0x10000) * np.arange(n, dtype=np.uint32)).view(np.float32)  # ties
            bits = x.view(np.uint32).astype(np.uint64)
            want = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
            np.testing.assert_array_equal(ops.convert(x), want)
        else:
            data, scale, zero = ops.quantize(x)
            assert zero.tolist() == [0 if not (row < 0).any() else 128 for row in x]
            back = scale.astype(np.float64)[:, None] * (data.astype(np.float64) - zero[:, None])
            assert (np.abs(back - x) <= 0.50001 * scale[:, None] + 1e-38).all()
            np.testing.assert_allclose(scale, np.abs(x).max(1) / np.where(zero == 0, 255.0, 127.0), rtol=1e-6)
            x[5, n // 2] = np.inf
            x[6, 0] = np.nan
            again, scale, _ = ops.quantize(x)
            assert np.isnan(scale[[5, 6]]).all()
            np.testing.assert_array_equal(np.delete(again, [5, 6], 0), np.delete(data, [5, 6], 0))
    wrong = "expected quantize, got convert" if ops.activation == "u8" else "expected convert, got quantize"
    with pytest.raises(ValueError, match=wrong):
        (ops.convert if ops.activation == "u8" else ops.quantize)(np.zeros((1, 1), np.float32))
