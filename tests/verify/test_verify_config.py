"""A bundle whose manifest and parity.json agree on a number that its graph does not have: verify says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pepnet_infer import BundleError, Engine
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.export.bundle.write_bundle import write_bundle
from pepnet_infer.export.model.random_init import random_dense
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import make_keys
from pepnet_infer.schema.network_config import InputWidths, ModelConfig
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.storage.listing import describe_files
from pepnet_infer.verify.verify import verify

pytestmark = pytest.mark.usefixtures("one_torch_thread")

# At equal widths tensors have the same shapes wherever the gates stand.
WIDTH = 6


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose tensors say nothing about the gates: one expert, every layer as wide as the input."""
    fields = [
        {"name": "user", "kind": "id", "side": "user", "table": "user", "inputs": ["general", "prior"]},
        {"name": "page", "kind": "id", "side": "domain", "table": "page", "inputs": ["domain"]},
    ]
    schema = FeatureSchema.from_json(
        {
            "name": "even",
            "tables": {"user": {"dim": WIDTH}, "page": {"dim": 2}},
            "fields": fields,
            "domain": {"column": "page", "values": [0, 1]},
            "tasks": {"click": "is_click"},
        }
    )
    config = ModelConfig(InputWidths(**schema.widths), layers=(WIDTH, WIDTH), towers=(4,), experts=1)
    rng = np.random.default_rng(0)
    tables = {
        spec.name: RowBatch.of(
            rng.standard_normal((9, spec.dim), dtype=np.float32),
            keys=make_keys(spec.number, np.arange(9, dtype=np.uint64)),
            scores=rng.random(9, dtype=np.float32),
            default=rng.standard_normal(spec.dim, dtype=np.float32),
        )
        for spec in schema.tables
    }
    checkpoint = Checkpoint(schema, config, tables, {}, random_dense(config, 1, 3))
    return write_bundle(checkpoint, tmp_path_factory.mktemp("even") / "bundle", model_version=1).path


@pytest.fixture
def resigned(even: Path, tmp_path: Path) -> Callable[[str, object], Path]:
    """Returns `resigned(name, value)`: a copy with another value in both documents, and the listing as it is then."""

    def make(name: str, value: object) -> Path:
        copy = Path(shutil.copytree(even, tmp_path / "bundle"))
        for document in ("parity.json", "manifest.json"):
            data = json.loads((copy / document).read_text())
            data["config"][name] = value
            if document == "manifest.json":
                data["files"]["parity.json"] = describe_files(copy)["parity.json"]
            (copy / document).write_text(json.dumps(data))
        return copy

    return make


def test_the_bundle_as_it_was_exported_verifies(even: Path) -> None:
    assert verify(even)["golden"]["max_abs"] < 1e-5


@pytest.mark.parametrize(("name", "value"), [("gamma", 2.125), ("gate_position", "input")])
@pytest.mark.parametrize("torch", [True, False])
def test_verify_finds_a_config_that_is_not_the_networks(
    resigned: Callable[[str, object], Path], monkeypatch: pytest.MonkeyPatch, name: str, value: object, torch: bool
) -> None:
    copy = resigned(name, value)
    Engine.load(copy, backend="native").close()
    if not torch:
        monkeypatch.setattr("pepnet_infer.verify.verify.find_spec", lambda name: None)
    own = r"manifest\.json: config with dense\.safetensors in float64"
    where = r"dense\.onnx against dense\.safetensors" if torch else own
    with pytest.raises(BundleError, match=rf"{where}: .* rows.*: expected 0\.\d+ within"):
        verify(copy)
