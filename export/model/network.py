"""From a config to its network, and between a network and the tensors a bundle stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pepnet_infer.errors import BundleError, SchemaError
from pepnet_infer.export.model.baselines import BASELINE_NETWORKS
from pepnet_infer.export.model.pepnet import Network, PEPNet
from pepnet_infer.schema.network_config import ModelConfig


def build_network(config: ModelConfig, tasks: int) -> Network:
    """Returns the freshly initialised network that `config.model` names, for `tasks` targets (float32).

    Draws from torch's global generator: seed it first. Raises SchemaError when the config does not fit the network.
    """
    if tasks < 1:
        raise SchemaError(f"tasks: expected at least 1, got {tasks}")
    if config.model == "pepnet":
        return PEPNet(config, tasks)
    return BASELINE_NETWORKS[config.model](config, tasks)


def dense_state(network: torch.nn.Module) -> dict[str, npt.NDArray[np.float32]]:
    """Returns copies of the network's tensors as float32, by name: a PEPNet's are `pepnet_infer.network`'s."""
    state = network.state_dict()
    return {
        name: value.detach().cpu().to(torch.float32, copy=True).contiguous().numpy() for name, value in state.items()
    }


def load_dense(network: torch.nn.Module, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Copies `tensors` into the network, in the network's dtype.

    Raises BundleError, before anything is copied, naming the first tensor that is missing, not expected, of another
    shape, not of a float type, or not finite.
    """
    state = network.state_dict()
    for name, parameter in state.items():
        if name not in tensors:
            raise BundleError(f"dense tensor {name!r}: expected {list(parameter.shape)}, got none")
    for name, value in tensors.items():
        if name not in state:
            raise BundleError(f"dense tensor {name!r}: the network has no such tensor")
        shape = tuple(state[name].shape)
        if value.shape != shape:
            raise BundleError(f"dense tensor {name!r}: expected shape {list(shape)}, got {list(value.shape)}")
        if value.dtype.kind != "f":
            raise BundleError(f"dense tensor {name!r}: expected float32, got {value.dtype}")
        bad = value.size - int(np.isfinite(value).sum())
        if bad:
            raise BundleError(f"dense tensor {name!r}: expected finite values, got {bad} that are not")
    with torch.no_grad():
        for name, parameter in state.items():
            value = tensors[name]
            parameter.copy_(torch.tensor(value.astype(value.dtype.newbyteorder("="), order="C", copy=False)))
