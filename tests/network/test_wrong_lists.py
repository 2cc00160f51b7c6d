"""Lists that cannot be: each is a BundleError that names the operation and what is off, in bounded time and memory."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pepnet_infer.errors import BundleError
from pepnet_infer.network.network import Network
from pepnet_infer.network.operations import OPERATIONS
from pepnet_infer.schema.network_config import BASELINES, InputWidths, ModelConfig

INPUTS = {"general": 8, "domain": 3, "prior": 0}


def document(*operations: dict[str, Any], of: str | None = None, head: str = "identity") -> dict[str, Any]:
    """A list of these operations, whose head is the last one's value."""
    heads = [{"of": of or operations[-1]["name"], "as": head}]
    return {"version": 1, "inputs": dict(INPUTS), "operations": list(operations), "heads": heads}


def op(kind: str, name: str = "y", **fields: Any) -> dict[str, Any]:
    return {"op": kind, "name": name, **fields}


H = op("product", "h", x="general", w="h.w", width=4, groups=3)  # [3, 4]
Z = op("product", "z", x="domain", w="z.w", width=3, groups=2)  # [2, 3]
ONE = op("product", "one", x="general", w="one.w", width=6)  # [1, 6]

#: operations, and how the error begins after the manifest's name
WRONG: dict[str, tuple[tuple[dict[str, Any], ...], str]] = {
    "concat of nothing": ((op("concat", of=[]),), "network.operations[0] (concat).of: expected a list of at least 1"),
    "columns past the end": (
        (op("concat", of=[{"from": "domain", "begin": 1, "end": 4}]),),
        "operation 'y' (concat): of: expected at least one column within 0 to 3 of 'domain', got 1 to 4",
    ),
    "columns that end before they begin": (
        (op("concat", of=[{"from": "domain", "begin": 2, "end": 1}]),),
        "operation 'y' (concat): of: expected at least one column within 0 to 3 of 'domain', got 2 to 1",
    ),
    "columns that are none": (
        (op("concat", of=[{"from": "domain", "begin": 2, "end": 2}]),),
        "operation 'y' (concat): of: expected at least one column within 0 to 3 of 'domain', got 2 to 2",
    ),
    "groups of two numbers side by side": (
        (H, Z, op("concat", of=[{"from": "h"}, {"from": "z"}])),
        "operation 'y' (concat): of: expected a value of one group or of 3, got 'z' [2, 3]",
    ),
    "a stack of two widths": (
        (H, Z, op("stack", of=["h", "z"])),
        "operation 'y' (stack): of: expected values of 4 columns, got 'z' [2, 3]",
    ),
    "a split that leaves a rest": (
        (op("split", x="general", groups=3),),
        "operation 'y' (split): groups: expected a divisor of the 8 columns of 'general', got 3",
    ),
    "a split of groups": ((H, op("split", x="h", groups=2)), "operation 'y' (split): x: expected a value of one group"),
    "a group that is not there": (
        (H, op("pick", x="h", groups=[0, 3])),
        "operation 'y' (pick): groups: expected groups below the 3 of 'h', got 3",
    ),
    "a product with other groups": (
        (H, op("product", x="h", w="y.w", width=2, groups=2)),
        "operation 'y' (product): x: expected a value of one group or of 2, got 'h' [3, 4]",
    ),
    "a tensor of two shapes": (
        (ONE, op("product", x="one", w="one.w", width=6)),
        "operation 'y' (product): w: expected tensor 'one.w' [8, 6] as another operation reads it, got [6, 6]",
    ),
    "prelu without a slope": (
        (op("activate", x="general", activation="prelu"),),
        "operation 'y' (activate): slope: expected a tensor, which prelu reads, got none",
    ),
    "relu with one": (
        (op("activate", x="general", activation="relu", slope="s"),),
        "operation 'y' (activate): slope: expected none, for it is not read, got 's'",
    ),
    "an alpha that is not read": (
        (op("activate", x="general", activation="relu", alpha=0.5),),
        "operation 'y' (activate): alpha: expected none, for it is not read",
    ),
    "a product of widths that do not fit": (
        (ONE, op("multiply", x="general", y="one")),
        "operation 'y' (multiply): y: expected a value of one column or of 8, got 'one' [1, 6]",
    ),
    "a sum of groups that do not fit": (
        (H, op("product", "g", x="general", w="g.w", width=4, groups=2), op("add", x="h", y="g")),
        "operation 'y' (add): y: expected a value of one group or of 3, got 'g' [2, 4]",
    ),
    "a scale of another width": (
        (op("affine", x="general", w="y.w", width=5),),
        "operation 'y' (affine): x: expected a value of one column or of 5, got 'general' [1, 8]",
    ),
    "a mix with too few logits": (
        (H, op("mix", z="one", h="h")),
        "operation 'y' (mix): z: expected an input or a value of an operation before it, got 'one'",
    ),
    "a mix of as many experts as there are logits": (
        (ONE, H, op("mix", z="one", h="h")),
        "operation 'y' (mix): z: expected a column for each of the 3 groups of h, got 'one' [1, 6]",
    ),
    "choices for too few tasks": (
        (Z, H, op("mix", z="z", h="h", choices=[[0, 1, 2]])),
        "operation 'y' (mix): choices: expected a list for each of the 2 groups of z, got 1",
    ),
    "choices of too few experts": (
        (Z, H, op("mix", z="z", h="h", choices=[[0, 1], [1, 2]])),
        "operation 'y' (mix): choices: expected a group for each of the 3 columns of z, got 2",
    ),
    "a choice that is not there": (
        (Z, H, op("mix", z="z", h="h", choices=[[0, 1, 2], [0, 1, 9]])),
        "operation 'y' (mix): choices: expected groups below the 3 of 'h', got 9",
    ),
    "a cross of two shapes": (
        (ONE, op("cross", x0="general", x="one", w="y.w")),
        "operation 'y' (cross): x0: expected the shape of x, [1, 6], got 'general' [1, 8]",
    ),
    "a rank without its matrix": (
        (op("cross", x0="general", x="general", w="y.w", rank=2),),
        "operation 'y' (cross): rank: expected u beside it, got none",
    ),
    "a matrix without its rank": (
        (op("cross", x0="general", x="general", w="y.w", u="y.u"),),
        "operation 'y' (cross): rank: expected at least 1, got 0",
    ),
    "fm of nothing": ((op("fm", width=4),), "operation 'y' (fm): v: expected v or x, got neither"),
    "fm of columns without weights": (
        (op("fm", x="general", width=4),),
        "operation 'y' (fm): w: expected a tensor with x, and none without, got none",
    ),
    "fm of another width": (
        (H, op("fm", v="h", width=5)),
        "operation 'y' (fm): v: expected a value of 5 columns, got 'h' [3, 4]",
    ),
    "a selection by a value": (
        (H, ONE, op("select", x="h", by="one", column=0)),
        "network.operations[2] (select).by: expected ",
    ),
    "a selection by a column that is not there": (
        (H, op("select", x="h", by="domain", column=3)),
        "operation 'y' (select): column: expected one of the 3 of domain, got 3",
    ),
    "pairs of one": (
        (op("pairs", x="general"),),
        "operation 'y' (pairs): x: expected a value of at least two groups, got 'general' [1, 8]",
    ),
    "an input without columns": (
        (op("gate", x="prior"),),
        "operation 'y' (gate): x: expected a value with columns, got 'prior' [1, 0]",
    ),
    "a value of a later operation": (
        (op("gate", "a", x="b"), op("gate", "b", x="general")),
        "operation 'a' (gate): x: expected an input or a value of an operation before it, got 'b'",
    ),
    "its own value": (
        (op("gate", "a", x="a"),),
        "operation 'a' (gate): x: expected an input or a value of an operation before it, got 'a'",
    ),
    "a name of two": (
        (op("gate", "a", x="general"), op("gate", "a", x="domain")),
        "operation 'a' (gate): name: expected one that no value has, got 'a'",
    ),
    "the name of an input": (
        (op("gate", "domain", x="general"),),
        "operation 'domain' (gate): name: expected one that no value has, got 'domain'",
    ),
    "a gamma of nothing": ((op("gate", x="general", gamma=0),), "network.operations[0] (gate).gamma: expected "),
    "a gamma that is none in float32": (
        (op("gate", x="general", gamma=1e-60),),
        "operation 'y' (gate): gamma: expected a positive number, got 0",
    ),
    "an eps that is none in float32": (
        (op("layer_norm", x="general", eps=1e-60),),
        "operation 'y' (layer_norm): eps: expected a positive number, got 0",
    ),
    "a width of nothing": ((op("product", x="general", w="w", width=0),), "network.operations[0] (product).width: "),
    "a width beyond the limit": (
        (op("product", x="general", w="w", width=2**31 - 1),),
        "operation 'y' (product): shape: expected at most 4194304 numbers of all values of a row, got [1, 2147483647]",
    ),
    "more groups than there may be": (
        (op("product", x="general", w="w", width=1, groups=4097),),
        "operation 'y' (product): groups: expected at most 4096, got 4097",
    ),
    "a number beyond all": (
        (op("product", x="general", w="w", width=2**80),),
        "network.operations[0] (product).width: ",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_list_that_cannot_be_is_refused_by_name(name: str) -> None:
    operations, message = WRONG[name]
    with pytest.raises(BundleError) as refused:
        Network.read("manifest.json", document(*operations))
    assert message in str(refused.value)
    assert str(refused.value).startswith("manifest.json: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(version=2), "network.version: expected 1, got 2"),
        (lambda d: d.update(more=1), "network: unknown key 'more'"),
        (lambda d: d.pop("inputs"), "network: missing key 'inputs'"),
        (lambda d: d["operations"][0].update(op="dense"), "network.operations[0].op: expected one of concat, stack, "),
        (lambda d: d["operations"][0].update(op=[1]), "network.operations[0].op: expected one of concat, stack, "),
        (lambda d: d["operations"][0].update(gama=2.0), "network.operations[0] (gate): unknown key 'gama'"),
        (lambda d: d["operations"][0].update(name=""), "network.operations[0] (gate).name: "),
        (lambda d: d["operations"][0].update(name="n" * 201), "network.operations[0] (gate).name: "),
        (lambda d: d["operations"][0].update(gamma=float("nan")), "network.operations[0] (gate).gamma: "),
        (lambda d: d["operations"][0].pop("x"), "network.operations[0] (gate): missing key 'x'"),
        (
            lambda d: d["heads"][0].update(of="nobody"),
            "heads: expected an input or a value of an operation before it, got 'nobody'",
        ),
        (lambda d: d["heads"][0].update({"as": "probit"}), "network.heads[0].as: "),
        (lambda d: d["heads"].clear(), "heads: expected at least 1, got 0"),
        (lambda d: d["heads"][0].update(of="prior"), "head of 'prior': expected a value with columns, got [1, 0]"),
        (lambda d: d["inputs"].update(general=2**30), "inputs: general: expected at most 4194304 columns"),
        (lambda d: d["inputs"].update(general=2**40), "network.inputs.general: "),
        (lambda d: d["inputs"].update(general=-1), "network.inputs.general: "),
    ],
)
def test_a_document_that_cannot_be_is_refused_by_its_key(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    data = document(op("gate", x="general"))
    Network.read("manifest.json", copy.deepcopy(data))
    change(data)
    with pytest.raises(BundleError) as refused:
        Network.read("manifest.json", data)
    assert message in str(refused.value)


def _chain(count: int) -> list[dict[str, Any]]:
    return [op("gate", f"v{i}", x="domain") for i in range(count)]


ABSURD: dict[str, Callable[[], dict[str, Any]]] = {
    "operations": lambda: document(*_chain(5000)),
    "heads": lambda: document(op("gate", x="domain")) | {"heads": [{"of": "y", "as": "exp"}] * 1025},
    "scores": lambda: document(op("product", x="domain", w="w", width=65_537)),
    "columns that are doubled": lambda: document(
        *(op("concat", f"v{i}", of=[{"from": f"v{i - 1}" if i else "general"}] * 2) for i in range(60))
    ),
    "groups that are doubled": lambda: document(
        *(op("stack", f"v{i}", of=[f"v{i - 1}" if i else "general"] * 2) for i in range(60))
    ),
    "picks": lambda: document(op("pick", x="general", groups=[0] * 1_000_000)),
    "parts": lambda: document(op("concat", of=[{"from": "general"}] * 600_000)),
    "widths that are multiplied": lambda: document(op("product", x="general", w="w", width=2**31 - 1, groups=4096)),
}


@pytest.mark.parametrize("name", ABSURD)
def test_an_absurd_size_is_refused_in_little_time(name: str) -> None:
    data = ABSURD[name]()
    began = time.monotonic()
    with pytest.raises(BundleError, match="expected at most"):
        Network.read("manifest.json", data)
    assert time.monotonic() - began < 30  # a guard against what does not end; it takes a second at most


def _lists() -> list[dict[str, Any]]:
    configs = [ModelConfig(InputWidths(9, 4, 5), (6, 5), (4,), 3)]
    for model in BASELINES:
        more = {"experts": 3} if model == "mmoe" else {}
        configs.append(ModelConfig(InputWidths(9, 4, 5), (6, 5), (4,), model=model, **more))
    return [Network.derived(config, 2).to_json() for config in configs]


LISTS = [json.dumps(one) for one in _lists()]
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=9), st.just([]), st.just({}),
    st.sampled_from([0, 1, -1, 2**31, "general", "prior", "relu", *OPERATIONS]),
)  # fmt: skip


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(LISTS), st.data())
def test_a_changed_list_is_read_or_refused(text: str, data: st.DataObject) -> None:
    changed = json.loads(text)
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = changed
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and data.draw(st.integers(0, 5)):
                place = place[key]
                continue
            way = data.draw(st.sampled_from(("junk", "drop", "double")))
            if way == "junk":
                place[key] = data.draw(JUNK)
            elif way == "drop":
                del place[key]
            elif isinstance(place, list):
                place.append(copy.deepcopy(place[key]))
            break
    refused = ""
    try:
        network = Network.read("manifest.json", changed)
    except BundleError as error:
        refused = str(error)
    if refused:
        assert refused.startswith("manifest.json")
    else:
        assert Network.read("again", network.to_json()) == network
