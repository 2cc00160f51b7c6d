"""The tables of docs/model.md say what the code says."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import msgspec
import pytest
from page_blocks import ROOT, blocks, table_below

from pepnet_infer.network.network import Network
from pepnet_infer.schema.network_config import (
    BACKBONES,
    GATE_POSITIONS,
    GATE_SCOPES,
    InputWidths,
    ModelConfig,
    unread,
)

PAGE = "docs/model.md"
TASKS = 3


def test_flags_and_defaults_are_those_of_the_config() -> None:
    rows = table_below(PAGE, "## Flags")
    said = {row[0].strip("`"): row[1] for row in rows}
    fields = {field.name: field for field in msgspec.structs.fields(ModelConfig)}
    assert said.keys() == fields.keys()
    for name, default in said.items():
        if name in ("gate_position", "gate_scope"):
            by_backbone = {b: getattr(_config(backbone=b, gate_position="", gate_scope=""), name) for b in BACKBONES}
            assert default == ", ".join(f"`{value}` with {backbone}" for backbone, value in by_backbone.items())
        elif fields[name].required:
            assert default in ("required", "of the schema")
        else:
            made = fields[name].default_factory
            assert default.strip("`") == str(fields[name].default if made is msgspec.NODEFAULT else made())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_tensors_shapes_and_order_are_those_of_the_config(backbone: str) -> None:
    tried = 0
    for position, scope, general, epnet, ppnet, hidden in product(
        GATE_POSITIONS, GATE_SCOPES, *((False, True),) * 3, (None, 7)
    ):
        flags = {"backbone": backbone, "gate_position": position, "gate_scope": scope, "gate_hidden": hidden}
        flags |= {"epnet_general": general, "use_epnet": epnet, "use_ppnet": ppnet}
        config = _config(**{name: value for name, value in flags.items() if name not in unread(flags)})
        assert list(_as_the_page_says(config).items()) == list(Network.derived(config, TASKS).tensors.items()), config
        tried += 1
    assert tried == 64


def test_tensors_of_the_demo_are_those_that_its_config_gives() -> None:
    page = (ROOT / PAGE).read_text()
    assert "(D = 74, Dd = 8, Dp = 48, 6 tasks, `layers: [64, 32]`, `towers: [16]`, `experts: 4`)" in page
    shapes = Network.derived(ModelConfig(InputWidths(74, 8, 48), layers=(64, 32), towers=(16,), experts=4), 6).tensors
    written = next(block.text for block in blocks(PAGE) if block.text.startswith("epnet.gate.w1"))
    assert written == "".join(f"{name:<18}{' × '.join(map(str, shape))}\n" for name, shape in shapes.items())


def _config(**flags: Any) -> ModelConfig:
    inputs = {"general": 11, "domain": 4, "prior": 5}
    by_experts = {} if flags["backbone"] == "towers" else {"towers": [13, 12], "experts": 2}
    return ModelConfig.from_json({"inputs": inputs, "layers": [9, 8, 6], **by_experts, **flags})


def _as_the_page_says(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns name → shape by the formulas of the page's last table of section Tensors."""
    towers = config.backbone == "towers"
    widths = config.inputs
    groups = TASKS if towers else config.experts
    outputs = [*config.layers, *([1] if towers else [])]
    inputs = [widths.general, *outputs[:-1]]
    gated = list(config.layers) if config.gate_position == "output" else inputs
    tower = [config.layers[-1], *config.towers, 1]
    names: dict[str, Any] = {
        "D": widths.general,
        "Dd": widths.domain,
        "Dp": widths.prior,
        "E": widths.domain + (widths.general if config.epnet_general else 0),
        "T": TASKS,
        "G": groups,
        "C": groups if config.gate_scope == "group" else 1,
        "W": lambda l: gated[l],
        "H": lambda n: config.gate_hidden or n,
        "I": lambda l: inputs[l],
        "O": lambda l: outputs[l],
        "J": lambda i: tower[i],
        "K": lambda i: tower[i + 1],
    }
    there = {
        "": True,
        "`use_epnet`": config.use_epnet,
        "`use_ppnet`": config.use_ppnet,
        "`backbone: mmoe`": not towers,
    }
    layers = {"ppnet.l": len(gated), "experts.l": len(outputs), "towers.i": len(tower) - 1}
    parts: dict[str, list[tuple[str, str]]] = {}
    for tensor, shape, condition, _ in table_below(PAGE, "| tensor | shape"):
        if there[condition]:
            prefix = next((p for p in layers if tensor.strip("`").startswith(p)), tensor.partition(".")[0])
            parts.setdefault(prefix, []).append((tensor.strip("`"), shape.strip("`")))
    shapes: dict[str, tuple[int, ...]] = {}
    for prefix, tensors in parts.items():
        for number in range(layers.get(prefix, 1)):
            for tensor, shape in tensors:
                name = re.sub(r"(?<=\.)[li](?=\.)", str(number), tensor)
                shapes[name] = tuple(eval(shape, {}, {**names, "l": number, "i": number}))
    return shapes
