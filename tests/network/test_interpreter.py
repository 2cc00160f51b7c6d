"""Every operation of the float64 interpreter against loops over its formula, or against torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

from pepnet_infer.network import operations as ops
from pepnet_infer.network.interpret import activate, interpret
from pepnet_infer.network.network import Network
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.schema.network_config import InputWidths

Floats = npt.NDArray[np.float64]
ROWS, GROUPS, WIDTH = 5, 3, 4
WIDTHS = InputWidths(GROUPS * WIDTH, 6, 2)

_draw = np.random.default_rng(11)
INPUTS = Inputs(*(_draw.standard_normal((ROWS, width), dtype=np.float32) for width in (GROUPS * WIDTH, 6, 2)))
INPUTS.prior[:, 1] = [0, 2, -1, 3, 1.5]  # numbers of groups, two of which there are not
GENERAL, DOMAIN, PRIOR = (np.asarray(matrix, np.float64) for matrix in INPUTS.matrices)
X = GENERAL.reshape(ROWS, GROUPS, WIDTH)  # the value `x` of every list here
SPLIT = ops.Split(name="x", x="general", groups=GROUPS)


def computed(*operations: ops.Operation) -> tuple[Floats, dict[str, Floats]]:
    """The scores of the last operation's value as they are, and the tensors that were drawn."""
    network = Network(WIDTHS, (SPLIT, *operations), (ops.Head(of=operations[-1].name, kind="identity"),))
    draw = np.random.default_rng(5)
    tensors = {name: draw.standard_normal(shape) for name, shape in network.tensors.items()}
    return interpret(network, tensors, INPUTS).reshape(ROWS, *network.shapes[operations[-1].name]), tensors


def same(found: Floats, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_columns_side_by_side() -> None:
    parts = (ops.Part(source="domain", begin=4), ops.Part(source="x", begin=1, end=3), ops.Part(source="domain", end=1))
    found, _ = computed(ops.Concat(name="y", of=parts))
    for row in range(ROWS):
        for group in range(GROUPS):
            same(found[row, group], [*DOMAIN[row, 4:], *X[row, group, 1:3], DOMAIN[row, 0]])


def test_groups_one_after_the_other() -> None:
    found, _ = computed(ops.Split(name="d", x="general", groups=3), ops.Stack(name="y", of=("d", "x", "d")))
    same(found, np.concatenate([X, X, X], axis=1))
    found, _ = computed(ops.Pick(name="p", x="x", groups=(2, 0, 2)), ops.Flatten(name="y", x="p"))
    same(found[:, 0], [[*X[row, 2], *X[row, 0], *X[row, 2]] for row in range(ROWS)])


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("source", ["x", "domain"])
def test_products(groups: int | None, source: str) -> None:
    found, t = computed(ops.Product(name="y", x=source, w="w", b="b", width=7, groups=groups))
    value = X if source == "x" else DOMAIN[:, None]
    assert found.shape == (ROWS, GROUPS if source == "x" or groups else 1, 7)
    for g in range(found.shape[1]):
        layer = torch.nn.Linear(value.shape[2], 7, dtype=torch.float64)
        layer.weight.data = torch.from_numpy((t["w"] if groups is None else t["w"][g]).T.copy())
        layer.bias.data = torch.from_numpy(t["b"] if groups is None else t["b"][g])
        same(found[:, g], layer(torch.from_numpy(value[:, min(g, value.shape[1] - 1)])).detach().numpy())


def test_gates_and_elementwise_operations() -> None:
    found, _ = computed(ops.Gate(name="y", x="x", gamma=1.5))
    same(found, 1.5 * torch.sigmoid(torch.from_numpy(X)).numpy())
    found, _ = computed(ops.Gate(name="g", x="prior"), ops.Multiply(name="y", x="x", y="x"))
    same(found, X**2)
    one = ops.Concat(name="one", of=(ops.Part(source="prior", end=1),))
    found, _ = computed(one, ops.Multiply(name="y", x="one", y="x"))
    same(found, X * PRIOR[:, :1, None])
    found, _ = computed(one, ops.Add(name="y", x="x", y="one"))
    same(found, X + PRIOR[:, :1, None])
    found, t = computed(ops.Affine(name="y", x="x", w="w", b="b", width=WIDTH))
    same(found, X * t["w"] + t["b"])
    found, t = computed(one, ops.Affine(name="y", x="one", w="w", width=5))
    same(found[:, 0], PRIOR[:, :1] * t["w"])


def test_mixes() -> None:
    z = ops.Split(name="z", x="domain", groups=2)
    found, _ = computed(z, ops.Mix(name="y", z="z", h="x"))
    logits = DOMAIN.reshape(ROWS, 2, 3)
    same(found, torch.softmax(torch.from_numpy(logits), 2).numpy() @ X)
    choices = ((2, 2, 0), (0, 1, 2))
    found, _ = computed(z, ops.Mix(name="y", z="z", h="x", choices=choices))
    for row in range(ROWS):
        for task, choice in enumerate(choices):
            shares = [math.exp(value) for value in logits[row, task]]
            expected = sum(share * X[row, e] for share, e in zip(shares, choice, strict=True)) / sum(shares)
            same(found[row, task], expected)


def test_cross_layers() -> None:
    square = ops.Product(name="x0", x="x", w="m", width=WIDTH)
    found, t = computed(square, ops.Cross(name="y", x0="x0", x="x", w="w", b="b"))
    same(found, (X @ t["m"]) * (X @ t["w"] + t["b"]) + X)
    found, t = computed(square, ops.Cross(name="y", x0="x0", x="x", w="w", u="u", rank=2))
    same(found, (X @ t["m"]) * (X @ t["u"] @ t["w"]) + X)


@pytest.mark.parametrize("fields", [{"v": "x"}, {"x": "domain", "w": "w"}, {"v": "x", "x": "domain", "w": "w"}])
def test_the_term_of_a_factorisation_machine_is_that_of_pairs(fields: dict[str, str]) -> None:
    found, t = computed(ops.Fm(name="y", width=WIDTH, **fields))
    for row in range(ROWS):
        vectors = list(X[row]) if "v" in fields else []
        vectors += [DOMAIN[row, j] * t["w"][j] for j in range(6)] if "x" in fields else []
        pairs = [a * b for i, a in enumerate(vectors) for b in vectors[:i]]
        same(found[row, 0], sum(pairs))


@pytest.mark.parametrize(("by", "reduce"), [("sum", np.sum), ("mean", np.mean), ("max", np.max)])
def test_reductions(by: Any, reduce: Callable[..., Floats]) -> None:
    found, _ = computed(ops.Reduce(name="y", x="x", by=by, over="groups"))
    same(found[:, 0], reduce(X, axis=1))
    found, _ = computed(ops.Reduce(name="y", x="x", by=by, over="columns"))
    same(found[:, :, 0], reduce(X, axis=2))


def test_layer_normalisation() -> None:
    found, t = computed(ops.LayerNorm(name="y", x="x", w="w", b="b", eps=1e-3))
    w, b = (torch.from_numpy(t[name]) for name in "wb")
    same(found, F.layer_norm(torch.from_numpy(X), (WIDTH,), w, b, 1e-3).numpy())
    found, _ = computed(ops.LayerNorm(name="y", x="x"))
    same(found, F.layer_norm(torch.from_numpy(X), (WIDTH,)).numpy())


def test_selections() -> None:
    found, _ = computed(ops.Select(name="y", x="x", by="prior", column=1))
    same(found[[0, 1, 4], 0], [X[0, 0], X[1, 2], X[4, 1]])  # 1.5 is group 1
    assert np.isnan(found[[2, 3]]).all()


def test_dot_products_of_pairs() -> None:
    found, _ = computed(ops.Pairs(name="y", x="x"))
    expected = [[X[row, i] @ X[row, j] for i in range(GROUPS) for j in range(i)] for row in range(ROWS)]
    same(found[:, 0], expected)


ACTIVATIONS: dict[ops.Function, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.01),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.3], dtype=torch.float64)),
    "silu": F.silu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "elu": F.elu,
    "selu": F.selu,
    "hard_sigmoid": F.hardsigmoid,
    "softplus": lambda x: F.softplus(x, threshold=1000.0),
    "hard_silu": F.hardswish,
}


@pytest.mark.parametrize("function", ops.FUNCTIONS)
def test_activations_are_those_of_torch(function: ops.Function) -> None:
    x = np.linspace(-30, 30, 6001)
    found = activate(function, x, slope=np.array([0.3]))
    np.testing.assert_allclose(found, ACTIVATIONS[function](torch.from_numpy(x)).numpy(), rtol=1e-9, atol=1e-13)
    assert np.isnan(activate(function, np.array([np.nan]), slope=np.array([0.3])))


@pytest.mark.parametrize(("function", "expected"), [("elu", F.elu), ("leaky_relu", F.leaky_relu)])
def test_an_alpha_that_is_given(function: ops.Function, expected: Callable[..., torch.Tensor]) -> None:
    x = np.linspace(-5, 5, 101)
    same(activate(function, x, alpha=0.4), expected(torch.from_numpy(x), 0.4).numpy())


@pytest.mark.parametrize("function", ["silu", "gelu", "gelu_tanh", "hard_silu"])
def test_the_limit_far_below_zero_is_zero(function: ops.Function) -> None:
    assert activate(function, np.array([-np.inf, -1e300])).tolist() == [0.0, 0.0]
    assert activate(function, np.array([np.inf])).tolist() == [np.inf]


def test_heads() -> None:
    layer = ops.Product(name="y", x="x", w="w", width=2)
    kinds: tuple[ops.HeadKind, ...] = ("probability", "identity", "exp", "softmax")
    network = Network(WIDTHS, (SPLIT, layer), tuple(ops.Head(of="y", kind=kind) for kind in kinds))
    w = np.random.default_rng(1).standard_normal((WIDTH, 2))
    y = torch.from_numpy(X @ w)
    expected = [torch.sigmoid(y), y, torch.exp(y), torch.softmax(y, 2)]
    found = interpret(network, {"w": w}, INPUTS)
    same(found, torch.cat([one.reshape(ROWS, -1) for one in expected], dim=1).numpy())
    assert found.shape == (ROWS, network.scores) == (ROWS, 4 * GROUPS * 2)
