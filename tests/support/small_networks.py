"""Networks of a few columns with every combination of flags, their weights and inputs, for tests of what runs them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import structs

from pepnet_infer.network.network import Network
from pepnet_infer.schema.network_config import (
    BACKBONES,
    GATE_POSITIONS,
    GATE_SCOPES,
    InputWidths,
    ModelConfig,
    unread,
)

Arrays = tuple[npt.NDArray[np.float32], ...]
Flags = tuple[str, str, str, bool, bool, bool]

TASKS = 3
PRODUCT: list[Flags] = list(
    itertools.product(BACKBONES, GATE_POSITIONS, GATE_SCOPES, (True, False), (True, False), (True, False))
)


def reading(inputs: InputWidths, **flags: Any) -> ModelConfig:
    """Returns the config of `flags`, without those that the network does not read."""
    left_out = unread(flags)
    return ModelConfig(inputs, **{name: value for name, value in flags.items() if name not in left_out})


def changed(config: ModelConfig, **flags: Any) -> ModelConfig:
    """Returns `config` with other `flags`, without those that the network then does not read."""
    return reading(**{**structs.asdict(config), **flags})


def config_of(
    flags: Flags = PRODUCT[0], widths: tuple[int, int, int] = (19, 5, 7), layers: tuple[int, ...] = (17, 9), **more: Any
) -> ModelConfig:
    backbone, position, scope, epnet_general, use_epnet, use_ppnet = flags
    return reading(
        InputWidths(*widths),
        layers=layers,
        towers=more.pop("towers", (6,)),
        experts=more.pop("experts", 4),
        backbone=backbone,
        gate_position=position,
        gate_scope=scope,
        epnet_general=epnet_general,
        use_epnet=use_epnet,
        use_ppnet=use_ppnet,
        **more,
    )


def tensors_of(config: ModelConfig, tasks: int = TASKS) -> dict[str, npt.NDArray[np.float32]]:
    random, result = np.random.default_rng(1), {}
    for name, shape in Network.derived(config, tasks).tensors.items():
        spread = 0.5 if name.rsplit(".", 1)[1].startswith("b") else (2.0 / shape[-2]) ** 0.5
        result[name] = (spread * random.standard_normal(shape)).astype(np.float32)
    return result


def inputs_of(config: ModelConfig, rows: int, seed: int = 0) -> Arrays:
    random, widths = np.random.default_rng(seed), config.inputs
    return tuple(
        random.standard_normal((rows, width), dtype=np.float32)
        for width in (widths.general, widths.domain, widths.prior)
    )
