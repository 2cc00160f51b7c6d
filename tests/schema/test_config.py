import math
from typing import Any

import pytest

from pepnet_infer.errors import SchemaError
from pepnet_infer.network.network import Network
from pepnet_infer.schema.network_config import InputWidths, ModelConfig

KUAISHOU = InputWidths(general=1216, domain=48, prior=120)


def test_defaults_follow_the_backbone() -> None:
    mmoe = ModelConfig(KUAISHOU, (512, 256))
    assert (mmoe.gate_position, mmoe.gate_scope) == ("output", "layer")
    towers = ModelConfig(KUAISHOU, (512, 256), backbone="towers")
    assert (towers.gate_position, towers.gate_scope) == ("input", "group")


def test_round_trip() -> None:
    for config in (
        ModelConfig(KUAISHOU, (512, 256), gate_hidden=64),
        ModelConfig(KUAISHOU, (512, 256), backbone="towers"),
        ModelConfig(InputWidths(4, 0, 0), (8,), use_epnet=False, use_ppnet=False),
        ModelConfig(KUAISHOU, (512, 256), model="ple", extra={"levels": 2}),
    ):
        assert ModelConfig.from_json(config.to_json()) == config
        assert ModelConfig.from_manifest(config.to_json()) == config


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"backbone": "towers", "experts": 4}, "experts: .* not read with the backbone towers, got 4"),
        ({"backbone": "towers", "towers": [8]}, "towers: .* not read with the backbone towers"),
        ({"use_epnet": False, "epnet_general": False}, "epnet_general: .* not read without EPNet, got False"),
        ({"use_ppnet": False, "gate_position": "input"}, "gate_position: .* not read without PPNet, got 'input'"),
        ({"use_epnet": False, "use_ppnet": False, "gamma": 3}, "gamma: .* not read without EPNet and PPNet"),
        ({"extra": {"levels": 2}}, "extra: .* not read by PEPNet"),
        ({"model": "deepfm", "experts": 4}, "experts: .* not read by the baseline deepfm, got 4"),
        ({"model": "mmoe", "gate_hidden": 4}, "gate_hidden: .* not read by the baseline mmoe"),
    ],
)
def test_a_flag_that_the_network_does_not_read_is_refused_unless_an_old_manifest_has_it(
    flags: dict[str, Any], said: str
) -> None:
    data = {"inputs": {"general": 4, "domain": 2, "prior": 2}, "layers": [8], **flags}
    with pytest.raises(SchemaError, match=f"^config: {said}"):
        ModelConfig.from_json(data)
    without = {name: value for name, value in data.items() if not said.startswith(f"{name}:")}
    assert ModelConfig.from_manifest(data) == ModelConfig.from_json(without)


def test_shapes_of_the_kuaishou_preset() -> None:
    shapes = Network.derived(ModelConfig(KUAISHOU, (512, 256)), 6).tensors
    assert shapes["epnet.gate.w1"] == (1264, 1216)
    assert shapes["ppnet.1.gate.w1"] == (1336, 256)
    assert shapes["experts.0.w"] == (8, 1216, 512)
    assert shapes["mix.w"] == (1216, 48)
    assert shapes["towers.1.w"] == (6, 64, 1)
    assert sum(math.prod(s) for s in shapes.values()) == 10_566_326


def test_shapes_of_towers_with_group_gates_on_every_input() -> None:
    config = ModelConfig(InputWidths(10, 2, 3), (8, 4), backbone="towers")
    shapes = Network.derived(config, 5).tensors
    assert [shapes[f"ppnet.{l}.gate.w2"] for l in range(3)] == [(50, 50), (40, 40), (20, 20)]
    assert shapes["experts.2.w"] == (5, 4, 1)
    assert not any(name.startswith(("mix", "towers")) for name in shapes)


@pytest.mark.parametrize(
    ("position", "scope", "widths"),
    [
        ("output", "layer", (8, 4)),
        ("input", "layer", (10, 8)),
        ("output", "group", (24, 12)),
        ("input", "group", (30, 24)),
    ],
)
def test_gate_widths_of_mmoe(position: str, scope: str, widths: tuple[int, int]) -> None:
    config = ModelConfig(InputWidths(10, 2, 3), (8, 4), experts=3, gate_position=position, gate_scope=scope)
    shapes = Network.derived(config, 2).tensors
    assert tuple(shapes[f"ppnet.{l}.gate.b2"][0] for l in range(2)) == widths


def test_absent_gates_have_no_tensors() -> None:
    shapes = Network.derived(ModelConfig(InputWidths(10, 0, 0), (8,), use_epnet=False, use_ppnet=False), 2).tensors
    assert not any(name.startswith(("epnet", "ppnet")) for name in shapes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "cnn"}, r"config\.backbone: expected one of mmoe, towers, got 'cnn'"),
        ({"gate_position": "middle"}, r"config\.gate_position: expected one of input, output, got 'middle'"),
        ({"layers": []}, r"config\.layers: expected a list of 1 to 256, each an integer .*, got a list of 0"),
        ({"layers": [8, 0]}, r"config\.layers\[1\]: expected an integer from 1 to 2147483647, got 0"),
        ({"layers": 8}, r"config\.layers: expected a list of 1 to 256, each an integer .*, got 8"),
        ({"experts": 0}, r"config\.experts: expected an integer from 1 to 2147483647, got 0"),
        ({"experts": True}, r"config\.experts: expected an integer from 1 to 2147483647, got True"),
        ({"gamma": float("nan")}, r"config\.gamma: expected a number from 0\.001 to 1000, got nan"),
        ({"gamma": 10**400}, r"config\.gamma: expected a number from 0\.001 to 1000, got an integer of 1329 bits"),
        ({"gamma": 1e20}, r"config\.gamma: expected a number from 0\.001 to 1000, got 1e\+20"),
        ({"gamma": 0.0}, r"config\.gamma: expected a number from 0\.001 to 1000, got 0"),
        ({"gamma": "2"}, r"config\.gamma: expected a number from 0\.001 to 1000, got '2'"),
        ({"use_epnet": 1}, r"config\.use_epnet: expected true or false, got 1"),
        ({"inputs": {"general": 4}}, r"config\.inputs: missing key 'domain'"),
        ({"inputs": {"general": 4, "domain": 0, "prior": 2}}, r"EPNet needs at least one domain column, got 0"),
        ({"inputs": {"general": 4, "domain": 2, "prior": 0}}, r"PPNet needs at least one prior column, got 0"),
        ({"widths": [1]}, r"config: unknown key 'widths'"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    data = {"inputs": {"general": 4, "domain": 2, "prior": 2}, "layers": [8], **change}
    with pytest.raises(SchemaError, match=message):
        ModelConfig.from_json(data)
