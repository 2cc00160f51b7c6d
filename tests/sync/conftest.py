"""Fixtures of the tests of following."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from sync_deltas import make

from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.sync.delta import Delta, open_delta


@pytest.fixture(scope="session", autouse=True)
def one_graph_for_the_same_weights() -> Iterator[None]:
    """Bundles of the same weights share a graph: the seconds that making one takes are not what is tested here."""
    module = import_module("pepnet_infer.export.bundle.write_bundle")  # its name in the package is the function's too
    to_onnx, simplify = module.to_onnx, module.simplify
    graphs: dict[Any, Any] = {}

    def exported(network: Any, config: Any, tasks: int) -> Any:
        weights = tuple(values.numpy().tobytes() for values in network.state_dict().values())
        key = str(config), tasks, weights
        if key not in graphs:
            graphs[key] = to_onnx(network, config, tasks)
        return graphs[key]

    def simplified(graph: Any, config: Any, tasks: int) -> Any:
        key = graph.SerializeToString(deterministic=True)
        if key not in graphs:
            graphs[key] = simplify(graph, config, tasks)
        return graphs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "to_onnx", exported)
        patch.setattr(module, "simplify", simplified)
        yield


@pytest.fixture
def root(toy_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A delta to break, with a secret beside it."""
    (tmp_path / "secret").write_text("nobody's business")
    return make(tmp_path / "delta", toy_checkpoint)


@pytest.fixture
def check(toy_checkpoint: Checkpoint) -> Callable[[Path], Delta]:
    return lambda root: open_delta(root, toy_checkpoint.schema, toy_checkpoint.network)
