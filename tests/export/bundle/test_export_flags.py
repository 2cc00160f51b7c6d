"""Every flag and every baseline through a written bundle: float64 formulas, torch and ONNX Runtime agree on scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import reading

from pepnet_infer.backends.create import create_backend
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.export.bundle.write_bundle import write_bundle
from pepnet_infer.export.model.network import build_network, dense_state, load_dense
from pepnet_infer.export.model.random_init import random_dense
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import make_keys
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.schema.network_config import (
    BACKBONES,
    BASELINES,
    GATE_POSITIONS,
    GATE_SCOPES,
    InputWidths,
    ModelConfig,
)
from pepnet_infer.schema.row_batch import RowBatch

pytestmark = pytest.mark.parity

Reference = Callable[..., np.ndarray]
Flags = tuple[str, str, str, bool, bool, bool]

TOLERANCE = 1e-5
BATCHES = (1, 2, 3, 7, 33)

PRODUCT: list[Flags] = list(
    itertools.product(BACKBONES, GATE_POSITIONS, GATE_SCOPES, (True, False), (True, False), (True, False))
)
#: Every two flags meet in every pair of their values; the first is the default of mmoe, the second that of towers.
PAIRS: list[Flags] = [
    ("mmoe", "output", "layer", True, True, True),
    ("towers", "input", "group", True, True, True),
    ("mmoe", "input", "group", False, True, False),
    ("towers", "output", "layer", False, True, False),
    ("mmoe", "output", "group", False, False, True),
    ("towers", "input", "layer", False, False, True),
    ("towers", "output", "group", True, False, False),
    ("mmoe", "input", "layer", True, False, False),
]


def schema(with_domain: bool = True, with_prior: bool = True) -> FeatureSchema:
    """Odd widths: general 19, domain 5 or 0, prior 7 or 0."""
    prior = ["general", "prior"] if with_prior else ["general"]
    fields: list[dict[str, Any]] = [
        {"name": "user", "kind": "id", "side": "user", "table": "user", "inputs": prior},
        {"name": "item", "kind": "id", "side": "item", "table": "item"},
        {"name": "seen", "kind": "bag", "side": "user", "table": "item"},
        {"name": "age", "kind": "dense", "side": "user", "mean": 0, "std": 1},
        {"name": "length", "kind": "dense", "side": "item", "mean": 0, "std": 1},
    ]
    if with_domain:
        fields.append({"name": "page", "kind": "id", "side": "domain", "table": "page", "inputs": ["domain"]})
    return FeatureSchema.from_json(
        {
            "name": "flags",
            "tables": {"user": {"dim": 7}, "item": {"dim": 5}, "page": {"dim": 5}},
            "fields": fields,
            "domain": {"column": "page", "values": [0, 1]},
            "tasks": {"click": "c", "like": "l", "follow": "f"},
        }
    )


def checkpoint(features: FeatureSchema, config: ModelConfig, dense: Mapping[str, np.ndarray]) -> Checkpoint:
    tables = {}
    for spec in features.tables:
        rng = np.random.default_rng(spec.number)
        keys = make_keys(spec.number, np.arange(9, dtype=np.uint64))
        rows, default = rng.standard_normal((9, spec.dim)), rng.standard_normal(spec.dim)
        tables[spec.name] = RowBatch.of(
            rows.astype("f4"), keys=keys, scores=np.ones(9, "f4"), default=default.astype("f4")
        )
    return Checkpoint(features, config, tables, {}, dense)


def rows_of(widths: InputWidths, rows: int) -> Inputs:
    rng = np.random.default_rng(rows)
    parts = (rng.standard_normal((rows, w), dtype=np.float32) for w in (widths.general, widths.domain, widths.prior))
    return Inputs(*parts)


def agree(made: Checkpoint, folder: Path, reference: Callable[[Bundle, Inputs], np.ndarray]) -> None:
    bundle = write_bundle(made, folder / "bundle", model_version=1)
    bundle = Bundle.open(bundle.path)  # what follows knows the bundle only
    network = build_network(bundle.config, len(bundle.tasks))
    load_dense(network, bundle.dense())
    backend = create_backend(bundle, "onnxruntime", threads=1)
    for batch in BATCHES:
        inputs = rows_of(bundle.config.inputs, batch)
        expected = reference(bundle, inputs)
        with torch.no_grad():
            parts = (torch.from_numpy(x) for x in (inputs.general, inputs.domain, inputs.prior))
            single = network(*parts).numpy()
        served = backend.run(inputs)
        assert expected.shape == single.shape == served.shape == (batch, 3)
        assert np.abs(single - expected).max() <= TOLERANCE
        assert np.abs(served - expected).max() <= TOLERANCE
        if batch == BATCHES[-1]:
            assert expected.std(axis=0).min() > 0.02, "scores that hardly vary would hide an error"


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(
            flags,
            id="-".join(f"{f:d}" if isinstance(f, bool) else f for f in flags),
            marks=() if flags in PAIRS else pytest.mark.slow,
        )
        for flags in PRODUCT
    ],
)
def test_pepnet(flags: Flags, tmp_path: Path, reference_scores: Reference) -> None:
    backbone, position, scope, epnet_general, use_epnet, use_ppnet = flags
    features = schema(with_domain=use_epnet, with_prior=use_ppnet)  # without a gate its input may have width 0
    config = reading(
        InputWidths(**features.widths),
        layers=(12, 9),
        towers=(6,),
        experts=4,
        backbone=backbone,
        gate_position=position,
        gate_scope=scope,
        epnet_general=epnet_general,
        use_epnet=use_epnet,
        use_ppnet=use_ppnet,
        gate_hidden=None if epnet_general else 14,
    )
    made = checkpoint(features, config, random_dense(config, 3, seed=1))

    def reference(bundle: Bundle, inputs: Inputs) -> np.ndarray:
        return reference_scores(bundle.config, bundle.dense(), inputs.general, inputs.domain, inputs.prior)

    agree(made, tmp_path, reference)


@pytest.mark.parametrize("model", BASELINES)
def test_baseline(model: str, tmp_path: Path) -> None:
    features = schema()
    extra = {"field_width": 5, "slots": [5, 5]} if model == "deepfm" else {}
    config = reading(InputWidths(**features.widths), layers=(12, 9), towers=(6,), experts=3, model=model, extra=extra)
    torch.manual_seed(2)
    network = build_network(config, 3)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1 or parameter.abs().max() == 0:
                parameter.normal_(0, 0.3)  # zero biases would hide a lost one
    made = checkpoint(features, config, dense_state(network))

    def reference(bundle: Bundle, inputs: Inputs) -> np.ndarray:
        double = build_network(bundle.config, len(bundle.tasks)).double()
        load_dense(double, bundle.dense())
        with torch.no_grad():
            parts = (torch.from_numpy(x).double() for x in (inputs.general, inputs.domain, inputs.prior))
            return double(*parts).numpy()

    agree(made, tmp_path, reference)


def test_the_default_run_covers_every_pair_of_values() -> None:
    assert len(PRODUCT) == 64
    for a, b in itertools.combinations(range(6), 2):
        assert {(f[a], f[b]) for f in PAIRS} == {(f[a], f[b]) for f in PRODUCT}, (a, b)
