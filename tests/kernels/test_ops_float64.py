"""Products of every table against float64, over rows, widths and epilogues.

How far float32 may be off: a sum of k products has k roundings of partial sums, none larger than the sum of
magnitudes, so |error| <= (k + 4)·u·Σ|a·w| with u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 3.1);
bias and epilogue add a few. This holds for every precision when operands are compared as the table rounds them; int8
sums are exact. Against the operands as given, half a step of each is added.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pepnet_infer import _kernels

pytestmark = pytest.mark.parity

Array = npt.NDArray[Any]
TABLES = [(entry["isa"], entry["precision"]) for entry in _kernels.isas() if entry["usable"]]
tables = pytest.mark.parametrize(("isa", "precision"), TABLES, ids=[f"{isa}-{precision}" for isa, precision in TABLES])

U = 2.0**-24
ROWS = (0, 1, 2, 7, 15, 16, 17, 31, 33, 255, 1000)
WIDTHS = (1, 3, 17, 31, 40, 65, 100, 129)
EPILOGUES = ("linear", "relu", "gate", "gate_times", "relu_times", "relu_gated")
GAMMA = 2.0
PAIRS = 4  # of widths for each number of rows and epilogue, when not all are run


@dataclass
class Value:
    """What is expected and how far off it may be."""

    x: Array
    tol: Array


def gate_of(v: Value) -> Value:
    """Slope at most γ/4; the sigmoid itself within 4 roundings of half an ulp."""
    gate = GAMMA / (1.0 + np.exp(-v.x))
    return Value(gate, GAMMA * v.tol / 4.0 + 8.0 * U * gate)


def relu_of(v: Value) -> Value:
    return Value(np.maximum(v.x, 0.0), v.tol)


def times(a: Value, b: Value) -> Value:
    x = a.x * b.x
    return Value(x, np.abs(a.x) * b.tol + np.abs(b.x) * a.tol + a.tol * b.tol + 2.0 * U * np.abs(x))


class Side:
    """One factor pair: activations [rows, in], weights [in, out], bias, and what a table makes of them."""

    def __init__(self, ops: _kernels.Ops, rows: int, width: int, out: int, rng: np.random.Generator) -> None:
        self.a = rng.standard_normal((rows, width), dtype=np.float32)
        self.a[2::3] = np.abs(self.a[2::3])  # no negative value is another zero point in int8
        self.w = rng.standard_normal((width, out), dtype=np.float32) / np.float32(np.sqrt(width))
        self.b = rng.standard_normal(out, dtype=np.float32)
        self.packed = _kernels.pack(self.w, self.b, ops.precision)
        self.integer = ops.activation == "u8"
        values = self.packed.values.astype(np.float64)
        if self.integer:
            data, scale, zero = ops.quantize(self.a)
            assert self.packed.scale is not None
            self.w_step = self.packed.scale.astype(np.float64) / 2.0
            self.a_step = scale.astype(np.float64)[:, None] / 2.0
            self.sums = (data.astype(np.float64) - zero[:, None]) @ values  # below 2^53: exact
            self.rounded = self.sums * (2.0 * self.a_step) * (2.0 * self.w_step)
        else:
            self.read = ops.convert(self.a).astype(np.float64)
            self.rounded = self.read @ values
            self.size = np.abs(self.read) @ np.abs(values)
        self.activation = ops.activation

    def as_rounded(self) -> Value:
        """Of the operands as the table reads them."""
        roundings = 4.0 * np.abs(self.rounded) if self.integer else (self.w.shape[0] + 4.0) * self.size
        bias = self.b.astype(np.float64)
        return Value(self.rounded + bias, U * (roundings + 2.0 * (np.abs(self.rounded) + np.abs(bias))))

    def as_given(self) -> Value:
        """Of the operands before rounding: half a step each on top."""
        a, w = self.a.astype(np.float64), self.w.astype(np.float64)
        tol = self.as_rounded().tol
        if self.integer:
            step_a, step_w = self.a_step * 1.001, self.w_step * 1.001
            tol = tol + np.abs(a).sum(1)[:, None] * step_w + step_a * (np.abs(w).sum(0) + w.shape[0] * step_w)
        elif self.packed.precision == "bf16":
            half = 2.0**-8  # half a step of a number of 8 bits, relative
            both = 2.0 * half + half**2 if self.activation == "bf16" else half
            tol = tol + both * (np.abs(a) @ np.abs(w))
        return Value(a @ w + self.b, tol)


def check(ops: _kernels.Ops, rows: int, width: int, out: int, epilogue: Any) -> None:
    rng = np.random.default_rng(zlib.crc32(f"{rows} {width} {out} {epilogue}".encode()))
    main = Side(ops, rows, width, out, rng)
    options: dict[str, Any] = {}
    mul = rng.standard_normal((rows, out), dtype=np.float32)
    gate: Side | None = None
    if epilogue in ("gate_times", "relu_times"):
        options["mul"] = mul
    elif epilogue == "relu_gated":
        gate = Side(ops, rows, width % 50 + 7, out, rng)
        options |= {"gate_a": gate.a, "gate_packed": gate.packed}
    if epilogue.startswith("gate") or gate is not None:
        options["gamma"] = GAMMA
    got = ops.product(main.a, main.packed, epilogue, padded=True, **options).astype(np.float64)
    assert got.shape == (rows, 16 * main.packed.panels)
    assert not got[:, out:].any(), "padding must be zero"
    factor = Value(mul.astype(np.float64), np.zeros(mul.shape))
    finish: dict[str, Callable[[Value, Value | None], Value]] = {
        "linear": lambda v, _: v,
        "relu": lambda v, _: relu_of(v),
        "gate": lambda v, _: gate_of(v),
        "gate_times": lambda v, _: times(gate_of(v), factor),
        "relu_times": lambda v, _: times(relu_of(v), factor),
        "relu_gated": lambda v, u: times(relu_of(v), gate_of(u if u is not None else v)),
    }
    for truth in ("as_rounded", "as_given"):
        want = finish[epilogue](getattr(main, truth)(), getattr(gate, truth)() if gate else None)
        worst = (np.abs(got[:, :out] - want.x) / (want.tol + 1e-37)).max(initial=0.0)
        assert worst <= 1.0, f"{rows} rows, {width} -> {out}, {epilogue}, {truth}: {worst:.3g} of the bound"


@tables
def test_products(isa: str, precision: str, record_property: pytest.RecordProperty) -> None:
    """Each number of rows with each epilogue and, over them, each pair of widths; one large product."""
    ops = _kernels.ops(isa, precision)
    pairs = list(itertools.product(WIDTHS, WIDTHS))
    cases = list(itertools.product(ROWS, EPILOGUES))
    for i, (rows, epilogue) in enumerate(cases):
        for j in range(PAIRS):
            check(ops, rows, *pairs[(i + 17 * j) % len(pairs)], epilogue)
    check(ops, 33, 1216, 1217, "relu_gated")
    record_property(f"kernels {isa} {precision}", PAIRS * len(cases) + 1)


@pytest.mark.slow
@tables
def test_every_product(isa: str, precision: str, record_property: pytest.RecordProperty) -> None:
    ops = _kernels.ops(isa, precision)
    cases = list(itertools.product(ROWS, WIDTHS, WIDTHS, EPILOGUES))
    for case in cases:
        check(ops, *case)
    for epilogue in EPILOGUES:
        check(ops, 1000, 1217, 1216, epilogue)
    record_property(f"kernels {isa} {precision}", len(cases) + len(EPILOGUES))


@tables
def test_bits_do_not_depend_on_the_split(isa: str, precision: str) -> None:
    ops = _kernels.ops(isa, precision)
    rng = np.random.default_rng(2)
    for width, out in ((65, 129), (129, 200), (1216, 70)):
        main, gate = Side(ops, 81, width, out, rng), Side(ops, 81, 77, out, rng)
        gated = {"gate_packed": gate.packed, "gamma": GAMMA}
        whole = ops.product(main.a, main.packed, "relu_gated", gate_a=gate.a, **gated)
        for step in (1, 2, 5, 16, 33, 64):
            rows = [
                ops.product(main.a[r : r + step], main.packed, "relu_gated", gate_a=gate.a[r : r + step], **gated)
                for r in range(0, 81, step)
            ]
            np.testing.assert_array_equal(np.concatenate(rows), whole)
        for step in (1, 2, 3, 5):
            panels = [
                ops.product(
                    main.a,
                    main.packed,
                    "relu_gated",
                    gate_a=gate.a,
                    panel_begin=p,
                    panel_end=min(p + step, last),
                    **gated,
                )
                for last in (main.packed.panels,)
                for p in range(0, last, step)
            ]
            np.testing.assert_array_equal(np.concatenate(panels, axis=1), whole)


@tables
def test_a_shared_part_of_k_gives_the_same_bits(isa: str, precision: str) -> None:
    """What `rank` does: the sum over the first values of k, computed once, is where every row starts from."""
    ops = _kernels.ops(isa, precision)
    main = Side(ops, 40, 193, 37, np.random.default_rng(3))
    if precision == "int8":
        with pytest.raises(ValueError, match="init: expected none with int8"):
            ops.product(main.a, main.packed, init=np.zeros(37, np.float32))
        with pytest.raises(ValueError, match="k_begin: expected 0 with int8"):
            ops.product(main.a, main.packed, k_begin=64)
        return
    main.a[:] = main.a[0]
    for shared in (32, 128, 192):
        begin = _kernels.pack(main.w[:shared], None, precision)
        start = ops.product(np.ascontiguousarray(main.a[:1, :shared]), begin)[0]
        rest = ops.product(main.a, main.packed, "relu", init=start, k_begin=shared)
        np.testing.assert_array_equal(rest, ops.product(main.a, main.packed, "relu"))
    with pytest.raises(ValueError, match="k_begin: expected a multiple of"):
        ops.product(main.a, main.packed, k_begin=8)


@tables
def test_rows_that_are_not_finite_stay_alone(isa: str, precision: str) -> None:
    ops = _kernels.ops(isa, precision)
    for rows in (3, 20, 70):
        main = Side(ops, rows, 50, 37, np.random.default_rng(4))
        clean = ops.product(main.a, main.packed, "relu", padded=True)
        for bad in (np.nan, np.inf, -np.inf):
            a = main.a.copy()
            a[1, 7] = bad
            got = ops.product(a, main.packed, "relu", padded=True)
            others = np.arange(rows) != 1
            np.testing.assert_array_equal(got[others], clean[others])
            assert not got[1, 37:].any()
            if precision == "int8" or np.isnan(bad):
                assert np.isnan(got[1, :37]).all()
            else:
                want = np.maximum(bad * np.sign(main.packed.values[7].astype(np.float64)), 0.0)
                np.testing.assert_array_equal(got[1, :37], want.astype(np.float32))


@tables
def test_where_a_product_is_written(isa: str, precision: str) -> None:
    """bf16 outputs are the float32 ones rounded to nearest even; a copy has the same bits; views with gaps are read."""
    ops = _kernels.ops(isa, precision)
    main = Side(ops, 35, 100, 67, np.random.default_rng(5))
    mul = np.random.default_rng(6).standard_normal((35, 67), dtype=np.float32)
    plain = ops.product(main.a, main.packed, "relu_times", mul=mul)
    wide = np.full((35, 90), -1.0, np.float32)
    narrow = ops.product(main.a, main.packed, "relu_times", mul=mul, bf16_out=True, copy=wide[:, :80])
    np.testing.assert_array_equal(wide[:, :67], plain)
    assert not wide[:, 67:80].any()
    assert (wide[:, 80:] == -1.0).all()
    bits = plain.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
    np.testing.assert_array_equal(narrow, rounded)
    gaps = np.zeros((70, 130), np.float32)
    gaps[::2, 15:115] = main.a
    shared = np.broadcast_to(mul[0], mul.shape)
    np.testing.assert_array_equal(
        ops.product(gaps[::2, 15:115], main.packed, "relu_times", mul=shared),
        ops.product(main.a, main.packed, "relu_times", mul=np.ascontiguousarray(shared)),
    )
