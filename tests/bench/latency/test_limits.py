"""The machine's limits: plain products and reads, and that the products are ones."""

from __future__ import annotations

import numpy as np
import pytest

from pepnet_infer.bench.latency import limits
from pepnet_infer.bench.latency.limits import BYTES, native, operands, products


def test_limits_are_positive_and_say_what_reached_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SHAPES", ((32, 64, 64), (16, 64, 64)))
    monkeypatch.setattr(limits, "SECONDS_A_TRY", 0.02)
    monkeypatch.setattr(limits, "last_level_cache", lambda: 1 << 20)
    found = limits.measure_limits(2, 100_000, list(BYTES), quick=False)
    assert list(found["matrix"]) == ["fp32", "bf16", "int8"]
    assert list(found["read_gbps"]) == ["fp32 weights", "bf16 weights", "int8 weights", "memory"]
    for peak, by in found["matrix"].values():
        assert peak > 0.1
        assert by.endswith((" 32x64x64", " 16x64x64"))
    assert min(found["read_gbps"].values()) > 0.1
    assert limits.better(found, found) == found
    faster = {**found, "matrix": {**found["matrix"], "bf16": (1e9, "a quiet moment")}}
    faster["read_gbps"] = {**found["read_gbps"], "int8 weights": 1e9}
    assert limits.better(found, faster) == limits.better(faster, found) == faster
    quick = limits.measure_limits(1, 100_000, ["bf16"], quick=True)
    assert quick["matrix"]["bf16"][1].endswith(" 32x64x64")
    assert list(quick["read_gbps"]) == ["bf16 weights"]


def test_weights_are_read_as_fast_as_the_best_way_to_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(limits, "SECONDS_A_TRY", 0.0)
    monkeypatch.setattr(limits, "read_gbps", lambda size, threads: asked.append(size) or 1e9)
    assert limits.weights_gbps("bf16", 50_000, 1) == 1e9
    monkeypatch.setattr(limits, "read_gbps", lambda size, threads: 0.0)
    assert limits.weights_gbps("bf16", 50_000, 1) > 0
    assert asked == [100_000]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", BYTES)
def test_every_product_in_the_peaks_is_one(precision: str, threads: int) -> None:
    x, w = operands(5, 96, 40)
    expected = x.astype(np.float64) @ w
    who = []
    for name, multiply in products(precision, x, w, threads):
        product = multiply()
        if isinstance(product, list):
            product = np.concatenate(product, axis=1)
        got = np.asarray(product.float() if hasattr(product, "float") else product, dtype=np.float64)
        np.testing.assert_allclose(got, expected, rtol=0, atol=0.02 * expected.std(), err_msg=name)
        who.append(name.partition(" ")[0])
    assert who == ["torch", "native"]


def test_threads_share_the_columns() -> None:
    x, w = operands(1, 64, 50)
    parts = native("scalar", "fp32", x, w, 3)()
    assert isinstance(parts, list)
    assert len(parts) == 3
    np.testing.assert_allclose(np.concatenate(parts, axis=1), x @ w, rtol=0, atol=1.0)
