"""The fused step on NumPy arrays, against its formula in float64: every instruction set, precision and form."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pepnet_infer import BackendError, SchemaError, _kernels
from pepnet_infer.kernels import PackedGatedExpertLayer, gated_expert_layer

TABLES = [(t["isa"], t["precision"]) for t in _kernels.isas() if t["usable"]]
#: Largest error, as a share of the largest value.
BOUNDS = {"fp32": 2e-6, "bf16": 1e-2, "int8": 4e-2}
Arrays = list[Any]


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEPNET_ISA", raising=False)


def arrays(rows: int, into: int, out: int, hidden: int, layers: int = 0, gates: int = 0, wide: bool = False) -> Arrays:
    """h, w, b, u, gate_w, gate_b; `layers` and `gates` are G where not 0, `wide` gives every layer its own h."""
    rng = np.random.default_rng((rows, into, out, hidden, layers, gates))

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    lead, gate_lead = (layers,) * bool(layers), (gates,) * bool(gates)
    return [
        normal(*(lead if wide else ()), rows, into),
        normal(*lead, into, out, scale=into**-0.5),
        normal(*lead, out, scale=0.3),
        normal(rows, hidden),
        normal(*gate_lead, hidden, out, scale=1.5 * hidden**-0.5),
        normal(*gate_lead, out, scale=0.3),
    ]


def formula(given: Arrays, gamma: float) -> np.ndarray:
    h, w, b, u, gate_w, gate_b = (array.astype(np.float64) for array in given)
    if w.ndim == 3:
        b = b[:, None]
    if gate_w.ndim == 3:
        gate_b = gate_b[:, None]
    result: np.ndarray = np.maximum(h @ w + b, 0.0) * (gamma / (1.0 + np.exp(-(u @ gate_w + gate_b))))
    return result


@pytest.mark.parametrize(("isa", "precision"), TABLES)
def test_it_is_the_formula(isa: str, precision: str) -> None:
    for rows in (0, 1, 2, 7, 16, 33, 100):
        for into, out, hidden in ((1, 1, 1), (20, 17, 5), (64, 48, 32), (130, 70, 33)):
            given = arrays(rows, into, out, hidden)
            got = gated_expert_layer(*given, isa=isa, precision=precision)
            expected = formula(given, 2.0)
            assert got.dtype == np.float32
            assert got.shape == (rows, out)
            scale = np.abs(expected).max(initial=1.0)
            assert np.abs(got - expected).max(initial=0.0) <= BOUNDS[precision] * scale


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("gates", [0, 3])
@pytest.mark.parametrize(("isa", "precision"), TABLES)
def test_layers_by_group(isa: str, precision: str, gates: int, wide: bool) -> None:
    given = arrays(21, 40, 19, 12, layers=3, gates=gates, wide=wide)
    got = gated_expert_layer(*given, 1.5, isa=isa, precision=precision)
    expected = formula(given, 1.5)
    assert got.shape == (3, 21, 19)
    assert np.abs(got - expected).max() <= BOUNDS[precision] * np.abs(expected).max()
    for group in range(3):  # as each layer is alone
        h, w, b, u, gate_w, gate_b = given
        gate = (gate_w[group], gate_b[group]) if gates else (gate_w, gate_b)
        one = gated_expert_layer(
            h[group] if wide else h, w[group], b[group], u, *gate, 1.5, isa=isa, precision=precision
        )
        assert np.abs(got[group] - one).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize(("isa", "precision"), TABLES)
def test_rows_do_not_depend_on_each_other(isa: str, precision: str) -> None:
    h, w, b, u, gate_w, gate_b = arrays(50, 33, 30, 21)
    layer = PackedGatedExpertLayer(w, b, gate_w, gate_b, isa=isa, precision=precision)
    whole = layer(h, u)
    for step in (1, 3, 16):
        parts = [layer(h[at : at + step], u[at : at + step]) for at in range(0, 50, step)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()
    h[7, 3], u[9, 0], h[30, 0] = np.nan, np.nan, np.inf
    spoilt = layer(h, u)
    others = np.setdiff1d(np.arange(50), (7, 9, 30))
    assert spoilt[others].tobytes() == whole[others].tobytes()
    assert np.isnan(spoilt[7]).all()
    assert np.isnan(spoilt[9]).all()


def test_a_packed_layer_says_what_it_is_and_serves_many_threads() -> None:
    h, w, b, u, gate_w, gate_b = arrays(64, 64, 32, 16, layers=4)
    layer = PackedGatedExpertLayer(w, b, gate_w, gate_b, precision="bf16")
    best = _kernels.choose("bf16")
    assert (layer.isa, layer.how, layer.precision) == (best["isa"], best["how"], "bf16")
    assert (layer.groups, layer.width, layer.gamma) == (4, 32, 2.0)
    wide = PackedGatedExpertLayer(w, b, gate_w, gate_b)
    weights = w.nbytes + gate_w.nbytes
    assert weights / 2 <= layer.packed_bytes < wide.packed_bytes
    assert weights <= wide.packed_bytes <= 2 * weights
    expected = layer(h, u).tobytes()
    found: list[bool] = []
    callers = [
        threading.Thread(target=lambda: found.extend(layer(h, u).tobytes() == expected for _ in range(50)))
        for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [True] * 200


def test_weights_are_taken_over_and_inputs_may_be_views() -> None:
    given = arrays(12, 30, 20, 10)
    h, w, b, u, gate_w, gate_b = given
    layer = PackedGatedExpertLayer(w, b, gate_w, gate_b)
    expected = layer(h, u)
    w[:] = 0.0
    assert np.array_equal(layer(h, u), expected)
    views = [np.repeat(x, 2, axis=1)[:, ::2] for x in (h, u)]
    assert not views[0].flags.c_contiguous
    assert np.array_equal(layer(*views), expected)
    assert np.array_equal(layer(np.asfortranarray(h), u), expected)


def swapped(place: int, change: Callable[[Any], Any]) -> Callable[[Arrays], Arrays]:
    return lambda given: [change(x) if i == place else x for i, x in enumerate(given)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swapped(0, lambda h: h.astype(np.float64)), r"^h: expected float32, got float64$"),
        (swapped(0, lambda h: h.tolist()), r"^h: expected a float32 array \[B, 5\], got list$"),
        (swapped(0, lambda h: h[:, 1:]), r"^h: expected shape \[B, 5\], got \[4, 4\]$"),
        (swapped(0, lambda h: np.stack([h, h])), r"^h: expected shape \[B, 5\], got \[2, 4, 5\]$"),
        (swapped(0, lambda h: np.ma.array(h, mask=h == h[0, 0])), r"^h: expected no masked values, got 1$"),
        (swapped(3, lambda u: u[:3]), r"^u: expected 4 rows as in h, got 3$"),
        (swapped(3, lambda u: u[0]), r"^u: expected shape \[B, 2\], got \[2\]$"),
        (
            swapped(1, lambda w: w[:, :0]),
            r"^w: expected no width of 0, got \[5, 0\]",
        ),
        (swapped(1, lambda w: w[0]), r"^w: expected shape \[in, out\] or .*, got \[3\]"),
        (swapped(2, lambda b: b[:2]), r"^b: expected shape \[3\], got \[2\]$"),
        (swapped(2, lambda b: b * np.float32(np.nan)), r"^b: expected finite values, got nan at \[0\]$"),
        (swapped(4, lambda g: g[:, :2]), r"^gate_w: expected 3 columns as in w, got \[2, 2\]$"),
        (
            swapped(4, lambda g: np.stack([g, g])),
            r"^gate_w: expected a gate for each layer of w \[5, 3\], got \[2, 2, 3\]",
        ),
        (swapped(5, lambda g: g[None]), r"^gate_b: expected shape \[3\], got \[1, 3\]$"),
    ],
)
def test_what_does_not_fit_is_refused(change: Callable[[Arrays], Arrays], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        gated_expert_layer(*change(arrays(4, 5, 3, 2)))


def test_what_does_not_fit_by_group_is_refused() -> None:
    given = arrays(4, 5, 3, 2, layers=2)
    with pytest.raises(SchemaError, match=r"^h: expected shape \[B, 5\] or \[2, B, 5\], got \[3, 4, 5\]$"):
        gated_expert_layer(np.zeros((3, 4, 5), np.float32), *given[1:])
    given[4] = np.zeros((3, 2, 3), np.float32)
    with pytest.raises(
        SchemaError, match=r"^gate_w: expected a gate for each layer of w \[2, 5, 3\], got \[3, 2, 3\]$"
    ):
        gated_expert_layer(*given)


def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given = arrays(1, 2, 2, 2)
    for asked, message in (
        ({"isa": "sse9"}, "isa: expected scalar, avx2, avx512 or amx, got 'sse9'"),
        ({"precision": "fp16"}, "precision: expected fp32, bf16 or int8, got 'fp16'"),
    ):
        with pytest.raises(BackendError, match=message):
            gated_expert_layer(*given, **asked)  # type: ignore[arg-type]
    for gamma in (float("nan"), float("-inf"), 1e39, 10**400, True, "2", None):
        with pytest.raises(SchemaError, match="gamma: expected a finite number that float32 holds, got "):
            gated_expert_layer(*given, gamma)  # type: ignore[arg-type]
    np.testing.assert_array_equal(gated_expert_layer(*given, np.float32(2)), gated_expert_layer(*given, 2))
    monkeypatch.setenv("PEPNET_ISA", "scalar")
    assert PackedGatedExpertLayer(*given[1:3], *given[4:]).isa == "scalar"
    monkeypatch.setenv("PEPNET_ISA", "mmx")
    with pytest.raises(BackendError, match=r"PEPNET_ISA: isa: expected .*, got 'mmx'"):
        gated_expert_layer(*given)
