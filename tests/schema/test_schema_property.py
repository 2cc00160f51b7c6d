"""Junk anywhere in a schema or a config is a SchemaError, never another exception."""

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pepnet_infer.errors import BundleError, SchemaError
from pepnet_infer.network.network import Network
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.network_config import ModelConfig

pytestmark = pytest.mark.property

SCHEMA: dict[str, Any] = {
    "name": "small",
    "tables": {"user": {"dim": 8, "number": 0}, "tab": {"dim": 4, "number": 1}},
    "joins": {"history": {"key": "user_id", "file": "history.parquet"}},
    "domain": {"column": "tab", "values": [0, 1]},
    "tasks": {"click": "is_click"},
    "fields": [
        {"name": "user_id", "kind": "id", "side": "user", "table": "user", "inputs": ["general", "prior"]},
        {
            "name": "hour",
            "kind": "id",
            "side": "context",
            "table": "user",
            "transform": {"op": "hour", "utc_offset": 8},
        },
        {"name": "seq", "kind": "bag", "side": "user", "table": "user", "join": "history", "max_len": 3},
        {"name": "age", "kind": "dense", "side": "user", "fill": 0.0, "mean": 1.0, "std": 2.0},
        {"name": "tab", "kind": "id", "side": "domain", "table": "tab", "inputs": ["domain"]},
    ],
}
CONFIG: dict[str, Any] = {
    "inputs": {"general": 8, "domain": 2, "prior": 4},
    "layers": [8, 4],
    "towers": [4],
    "experts": 2,
    "backbone": "mmoe",
    "gate_position": "input",
    "gate_scope": "group",
    "epnet_general": True,
    "gamma": 2.0,
    "gate_hidden": 4,
    "model": "pepnet",
    "extra": {},
}

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def _paths(node: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [prefix] * bool(prefix) + [p for key, child in items for p in _paths(child, (*prefix, key))]


def _with(data: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    data = copy.deepcopy(data)
    node: Any = data
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return data


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(_paths(SCHEMA)), junk)
def test_schema(path: tuple[Any, ...], value: Any) -> None:
    try:
        schema = FeatureSchema.from_json(_with(SCHEMA, path, value))
    except SchemaError:
        return
    assert FeatureSchema.from_json(schema.to_json()) == schema


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(_paths(CONFIG)), junk)
def test_config(path: tuple[Any, ...], value: Any) -> None:
    try:
        config = ModelConfig.from_json(_with(CONFIG, path, value))
    except SchemaError:
        return
    assert ModelConfig.from_json(config.to_json()) == config
    with contextlib.suppress(BundleError):  # of more groups or numbers than a list may have
        assert all(min(shape) >= 1 for shape in Network.derived(config, 2).tensors.values())
