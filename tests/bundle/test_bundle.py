"""A bundle opened: what is in it, that it is the checkpoint's, and that it can be made again byte by byte."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from row_questions import look_up

from pepnet_infer import Engine
from pepnet_infer.backends.create import create_backend
from pepnet_infer.bundle.bundle import Bundle, read_tensors
from pepnet_infer.bundle.checkpoint import TABLE_DTYPES, Checkpoint, write_table
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.bundle.table_file import open_table
from pepnet_infer.errors import BundleError
from pepnet_infer.export.bundle.write_bundle import write_bundle
from pepnet_infer.network.cost import multiply_adds
from pepnet_infer.network.network import Network
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.network_config import InputWidths
from pepnet_infer.storage.listing import describe_files


def test_the_manifest_is_the_contracts(toy_bundle: Path, toy_checkpoint: Checkpoint) -> None:
    manifest = json.loads((toy_bundle / "manifest.json").read_text())
    assert manifest["format_version"] == 2
    assert Network.read("", manifest["network"]) == toy_checkpoint.network
    assert manifest["model_version"] == 7
    assert manifest["tasks"] == ["click", "like"]
    assert manifest["domains"] == [0, 1, 4]
    assert manifest["schema_hash"] == toy_checkpoint.schema.hash
    assert manifest["config"]["inputs"] == {"general": 21, "domain": 4, "prior": 11}
    assert {"backbone", "gate_position", "gate_scope", "epnet_general", "use_epnet", "use_ppnet", "gamma", "experts",
            "layers", "towers", "gate_hidden", "inputs"} <= set(manifest["config"])  # fmt: skip
    on_disk = {p.relative_to(toy_bundle).as_posix() for p in toy_bundle.rglob("*") if p.is_file()}
    assert on_disk == {"manifest.json", *manifest["files"]}
    assert set(manifest["files"]) == {
        "dense.onnx",
        "dense.safetensors",
        "parity.json",
        *(f"tables/{name}.safetensors" for name in ("user", "video", "tag", "page")),
    }
    assert {"torch", "onnx", "onnxsim", "onnxruntime", "pepnet_infer"} <= set(manifest["tools"])


@pytest.mark.parametrize("check", ["full", "sizes"])
def test_opened_it_is_the_checkpoint(toy_bundle: Path, toy_checkpoint: Checkpoint, check: str) -> None:
    bundle = Bundle.open(toy_bundle, check=check)  # type: ignore[arg-type]
    assert bundle.schema == toy_checkpoint.schema
    assert bundle.config == toy_checkpoint.config
    assert bundle.tasks == ("click", "like")
    assert bundle.schema.domains == (0, 1, 4)
    assert bundle.model_version == 7
    assert bundle.sides() == {}
    assert bundle.dense().keys() == toy_checkpoint.dense.keys()
    for name, value in bundle.dense().items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, toy_checkpoint.dense[name])
    for name, path in bundle.table_paths.items():
        np.testing.assert_array_equal(read_tensors(path)["rows"], toy_checkpoint.tables[name].rows)
        assert (bundle.tables[name].rows, bundle.tables[name].dtype) == (40, "float32")


def test_a_check_there_is_not_is_an_error(toy_bundle: Path) -> None:
    with pytest.raises(ValueError, match="check: expected one of full, sizes, got 'none'"):
        Bundle.open(toy_bundle, check="none")  # type: ignore[arg-type]


def test_the_directory_itself_may_be_a_link(toy_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(toy_bundle)
    assert Bundle.open(tmp_path / "current").path == toy_bundle.resolve()


def test_opening_needs_no_torch_and_no_onnx(toy_bundle: Path) -> None:
    code = f"""
import sys
from pepnet_infer.bundle.bundle import Bundle
bundle = Bundle.open({str(toy_bundle)!r}); bundle.dense(); bundle.sides()
print([name for name in ("torch", "onnx", "onnxruntime", "pandas") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_graph_has_the_contracts_signature(toy_bundle: Path) -> None:
    model = onnx.load(toy_bundle / "dense.onnx")

    def shapes(values: object) -> dict[str, list[object]]:
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}  # type: ignore[attr-defined]

    assert shapes(model.graph.input) == {"general": ["batch", 21], "domain": ["batch", 4], "prior": ["batch", 11]}
    assert shapes(model.graph.output) == {"scores": ["batch", 2]}
    assert {v.type.tensor_type.elem_type for v in [*model.graph.input, *model.graph.output]} == {1}  # float32
    assert b"/" not in b"".join(n.SerializeToString() for n in model.graph.node), "paths of the machine that exported"
    assert not any(t.external_data for t in model.graph.initializer)


def test_parity_holds_what_was_measured(toy_bundle: Path, toy_checkpoint: Checkpoint, reference_scores) -> None:
    parity = Bundle.open(toy_bundle).parity
    assert parity["batches"] == [1, 2, 3, 7, 64, 1000]
    for stage in ("torch", "onnx", "simplified"):
        for rows in ("normal", "schema"):
            figures = parity["fp32"][stage][rows]
            assert figures["rows"] == 1077
            assert 0 < figures["rms"] < figures["max_abs"] <= parity["tolerance"] == 1e-5
            assert max(figures["tasks"].values()) == max(figures["batches"].values()) == figures["max_abs"]
            assert list(figures["tasks"]) == ["click", "like"]
    assert parity["scores"]["schema"]["min"] < 0.2 < 0.8 < parity["scores"]["schema"]["max"]
    inputs = normal_inputs(toy_checkpoint.config.inputs, 16, parity["golden"]["seed"])
    expected = reference_scores(
        toy_checkpoint.config, toy_checkpoint.dense, inputs.general, inputs.domain, inputs.prior
    )
    np.testing.assert_allclose(parity["golden"]["scores"], expected, rtol=0, atol=1e-12)


def test_the_same_again_gives_the_same_bytes(toy_bundle: Path, toy_checkpoint: Checkpoint, tmp_path: Path) -> None:
    again = write_bundle(toy_checkpoint, tmp_path / "again", model_version=7).path
    for path in (p for p in toy_bundle.rglob("*") if p.is_file()):
        assert path.read_bytes() == (again / path.relative_to(toy_bundle)).read_bytes(), path.name
    with pytest.raises(BundleError, match="model_version: expected more than 7, that of the bundle there, got 7"):
        write_bundle(toy_checkpoint, again, model_version=7, overwrite=True)


def test_versions_grow_by_themselves(toy_bundle: Path, tmp_path: Path) -> None:
    from pepnet_infer.export.bundle.write_bundle import next_version

    now = next_version(tmp_path / "new", None, overwrite=False)
    assert 1.7e9 < now < 2**33
    assert next_version(toy_bundle, None, overwrite=True) >= now
    manifest = {"model_version": now + 10**6}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert next_version(tmp_path, None, overwrite=True) == now + 10**6 + 1


@pytest.mark.parametrize("dtype", TABLE_DTYPES)
def test_stored_rows_are_served_as_rounded(toy_checkpoint: Checkpoint, tmp_path: Path, dtype: str) -> None:
    table = toy_checkpoint.tables["video"]
    write_table(tmp_path / "video.safetensors", table, dtype)
    store = MmapStore({"video": tmp_path / "video.safetensors"})
    out = np.empty((41, 5), np.float32)
    assert look_up(store, "video", np.append(table.keys, np.uint64(1 << 48 | 999)), out) == 1
    rounded = torch.from_numpy(table.rows).to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(out[:40], rounded)
    np.testing.assert_array_equal(out[40], table.default)
    assert open_table(tmp_path / "video.safetensors").dtype == dtype


def test_the_backend_scores_as_the_formulas_say(toy_bundle: Path, toy_checkpoint: Checkpoint, reference_scores) -> None:
    backend = create_backend(Bundle.open(toy_bundle), "onnxruntime", threads=1)
    for rows in (1, 2, 5, 333):
        inputs = normal_inputs(toy_checkpoint.config.inputs, rows, seed=99)
        config, dense = toy_checkpoint.config, toy_checkpoint.dense
        expected = reference_scores(config, dense, inputs.general, inputs.domain, inputs.prior)
        assert np.abs(backend.run(inputs) - expected).max() <= 1e-5


def test_golden_rows_are_normal_and_stay_the_same() -> None:
    widths = InputWidths(general=30, domain=0, prior=20)
    many, few = normal_inputs(widths, 2000, seed=5), normal_inputs(widths, 3, seed=5)
    assert many.general.shape == (2000, 30)
    assert many.domain.shape == (2000, 0)
    np.testing.assert_array_equal(many.general[:3], few.general)
    np.testing.assert_array_equal(many.prior[:3], few.prior)
    assert np.abs(many.general.mean()) < 0.02
    assert np.abs(many.general.std() - 1) < 0.02
    assert 3.5 < np.abs(many.general).max() < 6
    assert np.abs(np.corrcoef(many.general[:, 0], many.prior[:, 0])[0, 1]) < 0.1
    assert not np.array_equal(normal_inputs(widths, 3, seed=6).general, few.general)
    # Bundles of the past hold scores of these very rows.
    np.testing.assert_allclose(few.general[0, :4], GOLDEN_START, rtol=0, atol=1e-6)


GOLDEN_START = [-0.6935178637504578, 0.6494823098182678, -0.2508266270160675, 0.920685350894928]


def test_multiply_adds_are_counted_by_hand(toy_checkpoint: Checkpoint) -> None:
    config = toy_checkpoint.config
    epnet = (4 + 21) * 21 + 21 * 21
    ppnet = (11 + 21) * 12 + 12 * 12 + (11 + 21) * 8 + 8 * 8
    experts = 3 * (21 * 12 + 12 * 8)
    mix, towers = 21 * 2 * 3, 2 * (8 * 6 + 6)
    assert multiply_adds(Network.derived(config, 2)) == epnet + ppnet + experts + mix + towers


def test_nothing_is_left_beside_a_bundle(toy_bundle: Path) -> None:
    assert os.listdir(toy_bundle.parent) == [toy_bundle.name]


def test_a_bundle_of_format_1_has_the_network_of_its_config(
    toy_bundle: Path, toy_batch: Callable[..., Any], tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(toy_bundle, old)
    parity = json.loads((old / "parity.json").read_text())
    del parity["network"]
    (old / "parity.json").write_text(json.dumps(parity))
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["network"]
    (old / "manifest.json").write_text(
        json.dumps(
            {
                **manifest,
                "format_version": 1,
                "files": {k: v for k, v in describe_files(old).items() if k != "manifest.json"},
            }
        )
    )
    with Engine.load(toy_bundle) as engine, Engine.load(old) as other:
        assert other.bundle.network == engine.bundle.network
        assert np.array_equal(other.score(toy_batch(9)).values, engine.score(toy_batch(9)).values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n["operations"][1].update(op="dense"), r"network\.operations\[1\]\.op: expected one of concat, "),
        (lambda n: n["operations"][1].update(x="nobody"), "expected an input or a value of an operation before it"),
        (lambda n: n["inputs"].update(domain=5), r"network.*: expected"),
        (lambda n: n["heads"].append(n["heads"][0]), r"network\.heads: expected 2 scores, one a task, got 4"),
        (lambda n: n.update(version=2), "network.version: expected 1, got 2"),
        (lambda n: n["operations"][1].update(activation="tanh"), "network: expected the list in parity.json"),
    ],
)
def test_a_network_that_cannot_be_is_refused(
    toy_bundle: Path, tmp_path: Path, change: Callable[[Any], object], message: str
) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(toy_bundle, path)
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest["network"])
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=message):
        Bundle.open(path)
