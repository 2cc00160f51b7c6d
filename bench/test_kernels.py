"""The kernels, one by one: every table this machine can run, and the fused step beside the same in parts.

Shapes are those of preset `kuaishou`. `pytest bench/test_kernels.py` runs these alone; all of them on one thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from pepnet_infer import _kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_benchmark.fixture import BenchmarkFixture

    Floats = npt.NDArray[np.float32]

INNER, OUTER = 1264, 1216  # EPNet's first product: [domain ; general] to the gate's hidden layer
H, U, WIDTH = 512, 1336, 256  # the second expert layer and its gate's hidden layer
EXPERTS = 8
TABLES = [(isa["isa"], isa["precision"]) for isa in _kernels.isas() if isa["usable"]]
#: Largest difference from float64 in standard deviations of the result. torch rounds results to bf16 too.
BOUNDS = {"fp32": 1e-4, "bf16": 0.1, "int8": 0.1}


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def matrix(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.standard_normal(shape, dtype=np.float32)


def table_name(table: tuple[str, str]) -> str:
    return "-".join(table)


def measure(benchmark: BenchmarkFixture, group: str, call: Callable[[], Floats], macs: int = 0) -> Floats:
    """Times `call`, and says how many multiply-adds it stands for. Returns what it returned."""
    benchmark.group = group
    if macs:
        benchmark.extra_info["multiply_adds"] = macs
    pedantic: Callable[..., Floats] = benchmark.pedantic  # untyped
    return pedantic(call, rounds=20, warmup_rounds=2)


def assert_close(got: Floats, expected: npt.NDArray[np.float64], bound: float) -> None:
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < bound * expected.std()


@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("table", TABLES, ids=table_name)
def test_product(benchmark: BenchmarkFixture, rng: np.random.Generator, table: tuple[str, str], rows: int) -> None:
    isa, precision = table
    x, w = matrix(rng, rows, INNER), matrix(rng, INNER, OUTER)
    ops, packed = _kernels.ops(isa, precision), _kernels.pack(w, None, precision)
    group = f"product, {rows} x {INNER} x {OUTER}"
    got = measure(benchmark, group, lambda: ops.product(x, packed), rows * INNER * OUTER)
    assert_close(got, x.astype(np.float64) @ w, BOUNDS[precision])


class Step:
    """Inputs of relu(h·w + b) ⊙ 2·sigmoid(u·gate_w + gate_b), and its float64 result."""

    def __init__(self, rng: np.random.Generator, rows: int) -> None:
        self.h, self.u = matrix(rng, rows, H), matrix(rng, rows, U)
        self.w, self.gate_w = matrix(rng, H, WIDTH) / np.float32(H**0.5), matrix(rng, U, WIDTH) / np.float32(U**0.5)
        self.b, self.gate_b = matrix(rng, WIDTH), matrix(rng, WIDTH)
        gate = 1 / (1 + np.exp(-(self.u.astype(np.float64) @ self.gate_w + self.gate_b)))
        self.expected = np.maximum(self.h.astype(np.float64) @ self.w + self.b, 0) * 2 * gate
        self.group = f"fused step, {rows} rows"
        self.macs = rows * (H + U) * WIDTH


@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("table", TABLES, ids=table_name)
def test_fused_step(benchmark: BenchmarkFixture, rng: np.random.Generator, table: tuple[str, str], rows: int) -> None:
    isa, precision = table
    step = Step(rng, rows)
    ops = _kernels.ops(isa, precision)
    packed, gate = (_kernels.pack(w, b, precision) for w, b in ((step.w, step.b), (step.gate_w, step.gate_b)))

    def fused() -> Floats:
        return ops.product(step.h, packed, "relu_gated", gamma=2.0, gate_a=step.u, gate_packed=gate)

    got = measure(benchmark, step.group, fused, step.macs)
    assert_close(got, step.expected, BOUNDS[precision])


@pytest.mark.parametrize("rows", [1, 64])
def test_fused_step_in_parts_numpy(benchmark: BenchmarkFixture, rng: np.random.Generator, rows: int) -> None:
    """NumPy's own threads take part: it has no switch for them."""
    step = Step(rng, rows)

    def parts() -> Floats:
        gate = np.float32(2) / (np.float32(1) + np.exp(-(step.u @ step.gate_w + step.gate_b)))
        product: Floats = np.maximum(step.h @ step.w + step.b, np.float32(0)) * gate
        return product

    got = measure(benchmark, step.group, parts, step.macs)
    assert_close(got, step.expected, BOUNDS["fp32"])


@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("one_thread")
def test_fused_step_in_parts_torch(
    benchmark: BenchmarkFixture, rng: np.random.Generator, precision: str, rows: int
) -> None:
    import torch

    step = Step(rng, rows)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    h, u, w, gate_w, b, gate_b = (
        torch.from_numpy(x).to(dtype) for x in (step.h, step.u, step.w, step.gate_w, step.b, step.gate_b)
    )

    def parts() -> torch.Tensor:
        with torch.inference_mode():
            return torch.addmm(b, h, w).relu_() * torch.addmm(gate_b, u, gate_w).sigmoid_().mul_(2)

    got = measure(benchmark, step.group, lambda: parts().float().numpy(), step.macs)
    assert_close(got, step.expected, BOUNDS[precision])


FLOAT_TABLES = [isa for isa, precision in TABLES if precision == "fp32"]


@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("isa", FLOAT_TABLES)
def test_mix(benchmark: BenchmarkFixture, rng: np.random.Generator, isa: str, rows: int) -> None:
    z, h = matrix(rng, rows, EXPERTS), matrix(rng, EXPERTS, rows, WIDTH)
    ops = _kernels.ops(isa, "fp32")
    got = measure(benchmark, f"mix, {rows} rows", lambda: ops.mix(z, h))
    weights = np.exp(z.astype(np.float64))
    weights /= weights.sum(1, keepdims=True)
    assert_close(got, np.einsum("be,ebw->bw", weights, h), 1e-5)


@pytest.mark.parametrize("isa", [*FLOAT_TABLES, "numpy"])
def test_sigmoid(benchmark: BenchmarkFixture, rng: np.random.Generator, isa: str) -> None:
    x = matrix(rng, 64 * OUTER) * np.float32(3)
    if isa == "numpy":

        def sigmoid() -> Floats:
            result: Floats = 1 / (1 + np.exp(-x))
            return result

    else:
        ops = _kernels.ops(isa, "fp32")

        def sigmoid() -> Floats:
            return ops.sigmoid(x)

    got = measure(benchmark, f"sigmoid, {x.size} values", sigmoid)
    assert np.abs(got - 1 / (1 + np.exp(-x.astype(np.float64)))).max() < 1e-6
