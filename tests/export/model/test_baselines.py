"""Each baseline against its formula in NumPy, and all of them on an interaction that no sum of features explains."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from small_networks import changed, reading

from pepnet_infer.errors import SchemaError
from pepnet_infer.export.model.baselines import CGC, Cross, DCNv2, DeepFM
from pepnet_infer.export.model.network import build_network, dense_state, load_dense
from pepnet_infer.export.model.pepnet import Network
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.network_config import BASELINES, InputWidths, ModelConfig

Floats = npt.NDArray[np.float64]
Extra = dict[str, Any]
TASKS = 3
CONFIG = ModelConfig(InputWidths(general=19, domain=5, prior=7), layers=(13, 9), towers=(6,), experts=4)
EXTRAS: dict[str, tuple[Extra, ...]] = {
    "deepfm": ({"field_width": 3, "slots": [3] * 5}, {"field_width": 4, "slots": [4, 3, 5, 4]}, {}),
    "dcnv2": ({}, {"cross_layers": 2, "rank": 4}),
    "shared_bottom": ({},),
    "mmoe": ({},),
    "ple": ({}, {"levels": 3, "shared": 2, "specific": 3}),
}
CASES = [(name, extra) for name in BASELINES for extra in EXTRAS[name]]


def make(name: str, extra: Extra, **changes: Any) -> Network:
    """A network in float64, with biases that are not zero."""
    torch.manual_seed(4)
    network = build_network(changed(CONFIG, model=name, extra=extra, **changes), TASKS).double()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval()


def rows(count: int = 17) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(9)
    general, domain, prior = (torch.randn(count, width, generator=source).double() for width in (19, 5, 7))
    return general, domain, prior


def state(network: torch.nn.Module) -> dict[str, Floats]:
    return {name: value.detach().numpy().astype(np.float64) for name, value in network.state_dict().items()}


def stack(t: dict[str, Floats], name: str, group: int, x: Floats) -> Floats:
    for l in itertools.count():
        if f"{name}.{l}.w" not in t:
            return x
        x = np.maximum(x @ t[f"{name}.{l}.w"][group] + t[f"{name}.{l}.b"][group], 0)
    raise AssertionError


def tower(t: dict[str, Floats], task: int, x: Floats) -> Floats:
    hidden = np.maximum(x @ t["towers.0.w"][task] + t["towers.0.b"][task], 0)
    return (hidden @ t["towers.1.w"][task] + t["towers.1.b"][task])[:, 0]


def softmax(x: Floats) -> Floats:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def blend(weights: Floats, parts: list[Floats]) -> Floats:
    assert weights.shape[1] == len(parts)
    return np.sum([weights[:, i : i + 1] * part for i, part in enumerate(parts)], axis=0)


def expected(name: str, extra: Extra, t: dict[str, Floats], x: Floats) -> Floats:
    """Logits [B, T] of a baseline, one row, pair, expert and task at a time."""
    columns: list[Floats] = []
    if name == "shared_bottom":
        columns = [tower(t, k, stack(t, "bottom", 0, x)) for k in range(TASKS)]
    elif name == "mmoe":
        experts = [stack(t, "experts", e, x) for e in range(4)]
        for k in range(TASKS):
            gate = softmax(x @ t["mix.w"][:, k * 4 : k * 4 + 4] + t["mix.b"][k * 4 : k * 4 + 4])
            columns.append(tower(t, k, blend(gate, experts)))
    elif name == "dcnv2":
        crossed = x
        for l in range(extra.get("cross_layers") or 3):
            w = t[f"cross.u.{l}"] @ t[f"cross.v.{l}"] if extra.get("rank") else t[f"cross.u.{l}"]
            crossed = x * (crossed @ w + t[f"cross.b.{l}"]) + crossed
        both = np.hstack([crossed, stack(t, "deep", 0, x)])
        columns = [tower(t, k, both) for k in range(TASKS)]
    elif name == "deepfm":
        k = extra.get("field_width", 16)
        slots = extra.get("slots", [])
        ends = list(itertools.accumulate(slots))
        vectors = [x[:, end - width : end] for end, width in zip(ends, slots, strict=True)]
        vectors = [v if v.shape[1] == k else v @ t[f"project.{i}"] for i, v in enumerate(vectors)]
        vectors += [x[:, j : j + 1] * t["rest"][j - sum(slots)] for j in range(sum(slots), x.shape[1])]
        pairs = sum((a * b).sum(1) for a, b in itertools.combinations(vectors, 2))
        for k in range(TASKS):
            linear = x @ t["linear"][:, k] + t["bias"][k]
            columns.append(linear + t["scale"][k] * pairs + tower(t, k, stack(t, "deep", 0, x)))
    elif name == "ple":
        levels, shared, specific = extra.get("levels", 1), extra.get("shared", 2), extra.get("specific", 1)
        inputs, common = [x] * TASKS, x
        for level in range(levels):
            at = f"levels.{level}"
            ours = [stack(t, f"{at}.shared_experts", s, common) for s in range(shared)]
            own = [
                [stack(t, f"{at}.task_experts", k * specific + s, inputs[k]) for s in range(specific)]
                for k in range(TASKS)
            ]
            w, b = t[f"{at}.task_gates.w"], t[f"{at}.task_gates.b"]
            mixed = [blend(softmax(inputs[k] @ w[k] + b[k]), own[k] + ours) for k in range(TASKS)]
            if level < levels - 1:
                gate = softmax(common @ t[f"{at}.shared_gate.w"][0] + t[f"{at}.shared_gate.b"][0])
                common = blend(gate, [*itertools.chain(*own), *ours])
            inputs = mixed
        columns = [tower(t, k, inputs[k]) for k in range(TASKS)]
    return np.stack(columns, 1)


@pytest.mark.parametrize(("name", "extra"), CASES)
def test_equals_its_formula(name: str, extra: Extra) -> None:
    network, (general, domain, prior) = make(name, extra), rows()
    with torch.no_grad():
        logits = network.logits(general, domain, prior).numpy()
        assert torch.equal(network(general, domain, prior), torch.sigmoid(torch.from_numpy(logits)))
    x = np.hstack([general.numpy(), domain.numpy()])
    assert np.abs(logits - expected(name, extra, state(network), x)).max() < 1e-12


@pytest.mark.parametrize(("name", "extra"), CASES)
def test_takes_any_rows_and_leaves_prior_unread(name: str, extra: Extra) -> None:
    network = make(name, extra)
    general, domain, prior = rows()
    assert torch.equal(network(general, domain, prior), network(general, domain, prior + 1))
    assert not torch.equal(network(general, domain, prior), network(general, domain + 1, prior))
    assert network(general[:0], domain[:0], prior[:0]).shape == (0, TASKS)
    assert network(general[:1], domain[:1], prior[:1]).shape == (1, TASKS)


@pytest.mark.parametrize(("name", "extra"), CASES)
def test_without_domain_or_tower_widths(name: str, extra: Extra) -> None:
    network = make(name, extra, inputs=InputWidths(19, 0, 0), towers=())
    assert network(rows()[0], torch.empty(17, 0).double(), torch.empty(17, 0).double()).shape == (17, TASKS)


@pytest.mark.parametrize(("name", "extra"), CASES)
def test_tensors_go_in_and_come_out_unchanged(name: str, extra: Extra) -> None:
    config = changed(CONFIG, model=name, extra=extra)
    one, other = build_network(config, TASKS), build_network(config, TASKS)
    load_dense(other, dense_state(one))
    general, domain, prior = (x.float() for x in rows())
    assert torch.equal(one(general, domain, prior), other(general, domain, prior))


def test_every_parameter_learns() -> None:
    for name, extra in CASES:
        network = make(name, extra)
        network.logits(*rows()).square().sum().backward()
        for parameter_name, parameter in network.named_parameters():
            assert parameter.grad is not None, f"{name}: {parameter_name} takes no part"
            assert parameter.grad.abs().sum() > 0, f"{name}: {parameter_name} takes no part"


@pytest.mark.parametrize(("name", "extra"), [c for c in CASES if not {"levels", "slots"} & set(c[1])])
def test_learns_a_planted_interaction(name: str, extra: Extra) -> None:
    """Labels are the sign of a product of two columns (task 0, XOR), of a sum (1), and of a product with domain (2)."""
    torch.manual_seed(0)
    config = reading(InputWidths(6, 2, 0), layers=(24, 12), towers=(6,), experts=2, model=name)
    extra = {"field_width": 2, "slots": [2, 2]} if name == "deepfm" else extra  # the product lies across two fields
    network = build_network(changed(config, extra=extra), TASKS)
    general, domain, prior = torch.randn(2000, 6), torch.randn(2000, 2), torch.empty(2000, 0)
    truth = torch.stack([general[:, 0] * general[:, 2], general[:, 1] + general[:, 4], general[:, 3] * domain[:, 0]], 1)
    labels = (truth > 0).float()
    assert all(abs(np.corrcoef(general[:1500, i], labels[:1500, 0])[0, 1]) < 0.09 for i in range(6))
    train, test = slice(0, 1500), slice(1500, 2000)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-2)
    for _ in range(120):
        logits = network.logits(general[train], domain[train], prior[train])
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[train]).backward()
        optimizer.step()
    with torch.no_grad():
        right = ((network(general[test], domain[test], prior[test]) > 0.5) == (labels[test] > 0.5)).float().mean(0)
    assert right.min() > 0.8, right


def test_cross_of_full_rank_holds_every_low_rank_cross() -> None:
    low, full = Cross(6, 2, 2).double(), Cross(6, 2, None).double()
    assert low.v is not None
    for l in range(2):
        full.u[l].data = low.u[l].data @ low.v[l].data
    x = torch.randn(5, 6).double()
    assert torch.allclose(low(x), full(x), rtol=0, atol=1e-13)


def test_last_level_of_ple_passes_nothing_on() -> None:
    last, x = CGC(6, (4,), TASKS, 1, 2, pass_on=False), torch.randn(5, 6)
    m, common = last(x, x)
    assert m.shape == (5, TASKS, 4)
    assert common is x
    assert "shared_gate.w" not in last.state_dict()


def test_deepfm_takes_its_slots_from_a_schema(toy_schema: FeatureSchema) -> None:
    extra = DeepFM.slots(toy_schema)
    assert extra == {"field_width": 6, "slots": [6, 5, 5, 3]}  # user, video, watched, tags
    network = DeepFM(ModelConfig(InputWidths(**toy_schema.widths), (8,), model="deepfm", extra=extra), 2)
    assert {name: tuple(p.shape) for name, p in network.project.items()} == {"1": (5, 6), "2": (5, 6), "3": (3, 6)}
    assert tuple(network.rest.shape) == (2 + 4, 6)  # two dense columns and the page
    dense = tuple(field for field in toy_schema.fields if field.kind == "dense")
    with pytest.raises(SchemaError, match="deepfm: expected at least one id or bag field in general, got none"):
        DeepFM.slots(dataclasses.replace(toy_schema, fields=dense))


@pytest.mark.parametrize(
    ("name", "extra", "message"),
    [
        ("deepfm", {"fields": 3}, r"config\.extra: unknown key 'fields'; known: field_width, slots"),
        ("deepfm", {"slots": [3] * 7}, r"slots of at most 19 columns together .*, got 21"),
        ("deepfm", {"slots": [3, 0]}, r"config\.extra\.slots\[1\]: expected an integer from 1 to 2147483647, got 0"),
        ("dcnv2", {"rank": 0}, r"config\.extra\.rank: expected an integer from 1 to 2147483647 or None, got 0"),
        (
            "dcnv2",
            {"cross_layers": True},
            r"config\.extra\.cross_layers: expected an integer from 1 to 2147483647, got True",
        ),
        ("ple", {"level": 2}, r"config.extra: unknown key 'level'; known: levels, specific, shared"),
        ("mmoe", {"levels": 2}, r"config.extra: unknown key 'levels'; known: none"),
        ("shared_bottom", {"rank": 2}, r"config.extra: unknown key 'rank'; known: none"),
    ],
)
def test_refuses_extra_that_does_not_fit(name: str, extra: Extra, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        build_network(changed(CONFIG, model=name, extra=extra), TASKS)


def test_dcn_towers_read_cross_and_deep() -> None:
    network = build_network(changed(CONFIG, model="dcnv2"), TASKS)
    assert isinstance(network, DCNv2)
    assert network.state_dict()["towers.0.w"].shape == (TASKS, 19 + 5 + 9, 6)
