"""The machine's limits: plain products and reads, and that the products are ones."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from pepnet_infer.bench.latency import limits
from pepnet_infer.bench.latency.products import PRECISIONS, native, operands, products


def test_limits_are_positive_and_ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = ((32, 64, 64),)
    monkeypatch.setattr(limits, "SECONDS_A_TRY", 0.02)
    monkeypatch.setattr(limits, "last_level_cache", lambda: 1 << 20)
    peaks = limits.matrix_peaks(1, shapes=shapes)
    assert list(peaks) == ["fp32", "bf16", "int8"]
    assert all(peak.gflops > 0.1 and peak.by.endswith(" 32x64x64") for peak in peaks.values())
    assert list(limits.matrix_peaks(1, ["bf16"], shapes)) == ["bf16"]
    assert all(rate > 0.1 for rate in limits.cache_and_memory(1).values())
    assert limits.weights_gbps("int8", 100_000, 2) >= 0.1


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_product_in_the_peaks_is_one(precision: str, threads: int) -> None:
    x, w = operands(precision, 5, 96, 40)
    expected = x.astype(np.float64) @ w
    who = []
    for name, multiply in products(precision, x, w, threads):
        product = multiply()
        if isinstance(product, list):
            product = np.concatenate(product)
        got = np.asarray(product.float() if hasattr(product, "float") else product, dtype=np.float64)
        np.testing.assert_allclose(got, expected, rtol=0, atol=0.02 * expected.std(), err_msg=name)
        who.append(name.partition(" ")[0])
    assert who == ["torch", "native"] if find_spec("torch") else ["native"]


def test_fewer_rows_than_threads_are_cut_by_columns() -> None:
    x, w = operands("fp32", 1, 64, 50)
    parts = native("scalar", "fp32", x, w, 3)()
    assert isinstance(parts, list)
    assert len(parts) == 3
    np.testing.assert_allclose(np.concatenate(parts, axis=1), x @ w, rtol=0, atol=1e-4)


def test_of_two_looks_at_the_limits_the_higher_counts() -> None:
    def look(fp32: float, read: float, weights: float) -> dict[str, Any]:
        matrix = {"fp32": {"gflops": fp32, "by": f"{fp32}"}}
        return {"matrix": matrix, "memory_read_gbps": read, "weights_read_gbps": {"fp32": weights}}

    assert limits.better(look(1, 5, 3), look(2, 4, 3.5)) == look(2, 5, 3.5)
    assert limits.better(look(2, 4, 3.5), look(1, 5, 3)) == look(2, 5, 3.5)
