"""Random lists of operations by every table of kernels, against the interpreter in float64."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from random_networks import RandomNetwork

from pepnet_infer import _kernels
from pepnet_infer.network import operations as ops
from pepnet_infer.network.interpret import interpret
from pepnet_infer.network.network import Network
from pepnet_infer.network.operations import FUNCTIONS, OPERATIONS, Activated
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.schema.network_config import InputWidths

pytestmark = [pytest.mark.parity, pytest.mark.property]

TABLES = [(entry["isa"], entry["precision"]) for entry in _kernels.isas() if entry["usable"]]
LISTS, TURNS, ROWS = 500, 20, 19
#: Of scores, and where they are larger than 1 relative to them. Weights are as large as those of a trained network.
TOLERANCES = {"fp32": 5e-6, "bf16": 4e-2, "int8": 1e-1}

Floats = npt.NDArray[np.float64]


@pytest.mark.parametrize("turn", range(TURNS))
def test_every_table_computes_what_the_list_says(turn: int) -> None:
    for seed in range(turn, LISTS, TURNS):
        drawn = RandomNetwork(seed)
        network, tensors, inputs = drawn.network, drawn.tensors(seed), drawn.inputs(ROWS, seed)
        expected = interpret(network, tensors, Inputs(*inputs))
        shared = _shared(network.inputs.general), [(0, network.inputs.domain)], []
        for place, (isa, precision) in enumerate(TABLES):
            where = f"list {seed}, {isa} {precision}"
            args = (tensors, network.to_native(), isa, precision, shared)
            scores = _kernels.DenseModel(*args).run(*inputs, threads=1)
            assert _difference(scores, expected) <= TOLERANCES[precision], where
            # Whatever is split, by how many threads: the ways take turns, and the tables.
            if (seed // TURNS + place) % 3 > 0:
                continue
            way = ({"split": "rows", "block_rows": 4}, {"split": "columns", "block_rows": 7})[(seed + place) % 2]
            split = _kernels.DenseModel(*args, **way).run(*inputs, threads=2)
            assert np.array_equal(split, scores, equal_nan=True), where


WIDTHS = InputWidths(21, 3, 4)
#: Operations that read inputs where random lists rarely have any.
OVER_INPUTS: dict[str, tuple[Any, ...]] = {
    "a score of an input": (ops.Product(name="y", x="general", w="w", b="b", width=1),),
    "a score of columns of two inputs": (
        ops.Concat(name="x", of=(ops.Part(source="domain", begin=1), ops.Part(source="general", end=19))),
        ops.Product(name="y", x="x", w="w", width=1),
    ),
    "a mix of inputs by an input": (
        ops.Split(name="h", x="general", groups=3),
        ops.Mix(name="m", z="domain", h="h"),
        ops.Product(name="y", x="m", w="w", width=1),
    ),
    "inputs multiplied, gated, selected and added": (
        ops.Split(name="s", x="general", groups=7),
        ops.Select(name="one", x="s", by="prior", column=2),
        ops.Gate(name="g", x="domain"),
        ops.Multiply(name="m", x="g", y="one"),
        ops.Add(name="y", x="m", y="domain"),
    ),
    "inputs normalised, reduced and scaled": (
        ops.LayerNorm(name="n", x="prior"),
        ops.Activate(name="a", x="domain", activation="softplus"),
        ops.Fm(name="f", v="n", x="a", w="w", width=4),
        ops.Reduce(name="r", x="general", by="max", over="columns"),
        ops.Affine(name="y", x="r", w="scale", width=4),
        ops.Add(name="z", x="y", y="f"),
    ),
}


@pytest.mark.parametrize("name", OVER_INPUTS)
@pytest.mark.parametrize("kind", ["probability", "identity", "exp", "softmax"])
def test_operations_read_inputs_where_they_lie(name: str, kind: ops.HeadKind) -> None:
    operations = OVER_INPUTS[name]
    network = Network(WIDTHS, operations, (ops.Head(of=operations[-1].name, kind=kind),))
    draw = np.random.default_rng(5)
    tensors = {name: 0.3 * draw.standard_normal(shape, dtype=np.float32) for name, shape in network.tensors.items()}
    general, domain, prior = (draw.standard_normal((ROWS, w), dtype=np.float32) for w in (21, 3, 4))
    prior[:, 2] = draw.integers(-1, 8, ROWS)  # -1 and 7 are no groups
    expected = interpret(network, tensors, Inputs(general, domain, prior))
    for isa, precision in TABLES:
        model = _kernels.DenseModel(tensors, network.to_native(), isa, precision)
        for rows in (ROWS, 1):
            scores = model.run(general[:rows], domain[:rows], prior[:rows], threads=2)
            assert _difference(scores, expected[:rows]) <= TOLERANCES[precision], (isa, precision)


def test_lists_have_every_operation_and_activation() -> None:
    seen: Counter[str] = Counter()
    for seed in range(LISTS):
        for operation in RandomNetwork(seed).network.operations:
            seen[operation.op] += 1
            if isinstance(operation, Activated):
                seen[operation.activation] += 1
    assert set(seen) == {*OPERATIONS, *FUNCTIONS}
    assert min(seen.values()) >= 20


def test_columns_that_a_request_shares_change_no_bit() -> None:
    tried = 0
    for seed in range(0, LISTS, 10):
        drawn = RandomNetwork(seed)
        general, domain, prior = drawn.inputs(ROWS, seed)
        runs = _shared(general.shape[1])
        for begin, end in runs:
            general[:, begin:end] = general[0, begin:end]
        domain[:] = domain[0]
        shared = (runs, [(0, domain.shape[1])], [])
        for isa, precision in TABLES:
            model = _kernels.DenseModel(drawn.tensors(seed), drawn.network.to_native(), isa, precision, shared)
            tried += any(model.shared)
            plain = model.run(general, domain, prior)
            assert np.array_equal(model.run(general, domain, prior, share=True), plain, equal_nan=True), (seed, isa)
    assert tried > 50


def _shared(width: int) -> list[tuple[int, int]]:
    return [(1, 4), (6, width - 1)] if width > 8 else []


def _difference(scores: npt.NDArray[np.float32], expected: Floats) -> float:
    assert np.array_equal(np.isnan(scores), np.isnan(expected))
    difference = np.abs(scores - expected) / np.maximum(1.0, np.abs(expected))
    return float(np.nanmax(difference, initial=0.0))
