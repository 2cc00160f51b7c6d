"""Random lists of operations as programs for a GPU, run on the CPU thread by thread, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from random_networks import RandomNetwork

from pepnet_infer._kernels import CudaLibrary, CudaModel
from pepnet_infer.errors import BackendError
from pepnet_infer.network import operations as ops
from pepnet_infer.network.interpret import interpret
from pepnet_infer.network.network import Network
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.schema.network_config import InputWidths

pytestmark = [pytest.mark.parity, pytest.mark.property]

LISTS, TURNS, ROWS = 500, 10, 9
#: Of scores, and where they are larger than 1 relative to them. Weights are as large as those of a trained network.
TOLERANCES = {"fp32": 5e-6, "bf16": 4e-2}
TILES = ("few", "middle", "many", "wide")


# All of them take most of a minute, thread by thread: every run has a third of them, `make test-all` the rest.
@pytest.mark.parametrize("turn", [pytest.param(t, marks=[pytest.mark.slow] if t > 2 else []) for t in range(TURNS)])
def test_every_precision_computes_what_the_list_says(library: CudaLibrary, turn: int) -> None:
    for seed in range(turn, LISTS, TURNS):
        drawn = RandomNetwork(seed)
        network, tensors, inputs = drawn.network, drawn.tensors(seed), drawn.inputs(ROWS, seed)
        expected = interpret(network, tensors, Inputs(*inputs))
        for precision, tolerance in TOLERANCES.items():
            scores = _model(library, tensors, network, precision).run(*inputs)
            assert _difference(scores, expected) <= tolerance, (seed, precision)


def test_neither_the_batch_nor_the_tile_nor_a_graph_changes_a_bit(library: CudaLibrary) -> None:
    for seed in range(0, LISTS, 25):
        drawn = RandomNetwork(seed)
        tensors, inputs = drawn.tensors(seed), drawn.inputs(ROWS, seed)
        for number, precision in enumerate(TOLERANCES):
            scores = _model(library, tensors, drawn.network, precision).run(*inputs)
            one = _model(library, tensors, drawn.network, precision, graphs=False)
            again = np.concatenate([one.run(*(x[row : row + 1] for x in inputs)) for row in range(ROWS)])
            np.testing.assert_array_equal(again, scores)
            tile = TILES[(seed + number) % len(TILES)]
            np.testing.assert_array_equal(_model(library, tensors, drawn.network, precision, tile).run(*inputs), scores)


WIDTHS = InputWidths(12, 3, 4)


def _check(library: CudaLibrary, operations: tuple[Any, ...], heads: tuple[ops.Head, ...]) -> dict[str, Any]:
    """Compares with float64 in both precisions. Returns what the fp32 program consists of."""
    network = Network(WIDTHS, operations, heads)
    draw = np.random.default_rng(2)
    tensors = {n: 0.4 * draw.standard_normal(shape, dtype=np.float32) for n, shape in network.tensors.items()}
    inputs = [draw.standard_normal((ROWS, width), dtype=np.float32) for width in (12, 3, 4)]
    expected = interpret(network, tensors, Inputs(*inputs))
    for precision, tolerance in TOLERANCES.items():
        scores = _model(library, tensors, network, precision).run(*inputs)
        assert _difference(scores, expected) <= tolerance, precision
    return _model(library, tensors, network, "fp32").facts()


def _product(name: str, x: str, width: int, groups: int | None = None, **more: Any) -> ops.Product:
    return ops.Product(name=name, x=x, w=f"{name}.w", b=f"{name}.b", width=width, groups=groups, **more)


def test_products_that_read_the_same_and_end_alike_are_one(library: CudaLibrary) -> None:
    layers = tuple(_product(f"h{i}", "general", width, activation="silu") for i, width in enumerate((5, 70, 64)))
    joined = ops.Concat(name="x", of=tuple(ops.Part(source=layer.name) for layer in layers))
    facts = _check(library, (*layers, joined, _product("y", "x", 2)), (ops.Head(of="y", kind="probability"),))
    # They are written where the next layer reads them side by side, each by a product of its own.
    assert [one["name"] for one in facts["products"]] == ["h0", "h1", "h2", "y"]
    gates = tuple(ops.Multiply(name=f"m{i}", x=layer.name, y=layer.name) for i, layer in enumerate(layers))
    heads = tuple(ops.Head(of=gate.name, kind="identity") for gate in gates)
    facts = _check(library, (*layers, *gates), heads)
    assert [one["name"] for one in facts["products"]] == ["h0 | h1 | h2"]


def test_experts_of_several_layers_are_mixed_where_they_lie(library: CudaLibrary) -> None:
    operations = (
        _product("shared", "general", 7, 2),
        _product("own", "domain", 7, 3),
        ops.Stack(name="all", of=("own", "shared")),
        _product("z", "prior", 3, 2),
        ops.Mix(name="m", z="z", h="all", choices=((0, 3, 4), (2, 4, 3))),
        _product("y", "m", 1, 2),
    )
    _check(library, operations, (ops.Head(of="y", kind="probability"),))


def test_columns_of_a_value_are_copied_for_who_reads_them_elsewhere(library: CudaLibrary) -> None:
    operations = (
        _product("h", "general", 9),
        ops.Concat(name="x", of=(ops.Part(source="h", begin=3, end=8), ops.Part(source="prior", begin=1))),
        _product("a", "x", 6),
        ops.Concat(name="part", of=(ops.Part(source="h", begin=1, end=7),)),
        ops.Multiply(name="m", x="a", y="part"),
        _product("b", "x", 6),
        ops.Add(name="s", x="b", y="m"),
    )
    _check(library, operations, (ops.Head(of="s", kind="softmax"), ops.Head(of="h", kind="exp")))


def test_more_experts_than_a_block_has_room_for_are_refused_by_name(library: CudaLibrary) -> None:
    experts = 8193
    split = ops.Concat(name="wide", of=tuple(ops.Part(source="general", begin=0, end=1) for _ in range(experts)))
    choices = (tuple(0 for _ in range(experts)),)
    network = Network(
        WIDTHS,
        (split, ops.Split(name="h", x="general", groups=2), ops.Mix(name="m", z="wide", h="h", choices=choices)),
        (ops.Head(of="m", kind="identity"),),
    )
    with pytest.raises(BackendError, match=r"cuda: operation 'm' \(mix\): expected at most 8192 experts for one task"):
        _model(library, {}, network, "fp32")


def _model(
    library: CudaLibrary, tensors: Any, network: Network, precision: str, tile: str = "few", graphs: bool = True
) -> CudaModel:
    return CudaModel(library, tensors, network.to_native(), precision == "bf16", 0, graphs, tile)


def _difference(scores: npt.NDArray[np.float32], expected: npt.NDArray[np.float64]) -> float:
    assert np.array_equal(np.isnan(scores), np.isnan(expected))
    difference = np.abs(scores - expected) / np.maximum(1.0, np.abs(expected))
    return float(np.nanmax(difference, initial=0.0))
