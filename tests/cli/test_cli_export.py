"""`export`, `inspect` and `verify` as a user runs them: what is printed where, and how they end."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

from pepnet_infer.bundle.bundle import Bundle, read_tensors
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.cli.main import COMMANDS, app
from pepnet_infer.errors import BundleError
from pepnet_infer.storage.tensorfile import write_tensors
from pepnet_infer.verify.verify import verify

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(command: Run) -> Run:
    """The command line, run in this process: see `command`."""
    return command


@pytest.fixture(scope="module")
def preset_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("preset") / "bundle"


def test_a_preset_becomes_a_bundle(run: Run, preset_bundle: Path) -> None:
    words = ("--seed", 4, "--table-rows", 30, "--table-dtype", "bfloat16", "--model-version", 3, "--json")
    code, out, err = run("export", "preset:seed", "--out", preset_bundle, *words)
    assert code == 0, err
    result = json.loads(out)
    assert result["bundle"] == str(preset_bundle)
    assert (result["model"], result["model_version"]) == ("pepnet", 3)
    assert set(result["max_abs_difference"]) == {"torch", "onnx", "simplified"}
    assert 0 < max(result["max_abs_difference"].values()) <= 1e-5
    assert "bundle written" in err
    assert "Warning" not in err
    assert "torchvision" not in err
    bundle = Bundle.open(preset_bundle)
    assert {(info.dtype, info.rows) for info in bundle.tables.values()} >= {("bfloat16", 30), ("bfloat16", 3)}
    assert bundle.parity["seed"] == 4
    assert bundle.manifest["meta"] == {"preset": "seed", "seed": 4, "table_rows": 30}


def test_its_network_can_be_drawn(run: Run, preset_bundle: Path, tmp_path: Path) -> None:
    code, out, _ = run("inspect", preset_bundle, "--json", "--svg", tmp_path / "network.svg")
    assert code == 0
    network = json.loads(out)["network"]
    drawing = ElementTree.parse(tmp_path / "network.svg").getroot()
    space = {"s": "http://www.w3.org/2000/svg"}
    drawn = [title.text.split("\n")[0] for title in drawing.findall(".//s:title", space) if title.text]
    assert {one["name"] for one in network} < set(drawn)
    assert set(drawn) >= {"general", "domain", "prior", "probability"}
    lines = sum(len(set(one["reads"])) for one in network) + drawn.count("probability")
    assert len(drawing.findall(".//s:path", space)) == lines
    boxes = [tuple(int(box.get(side, "")) for side in ("x", "y")) for box in drawing.findall(".//s:g/s:rect", space)]
    assert len(set(boxes)) == len(drawn)
    assert max(x for x, _ in boxes) < int(drawing.get("width", ""))
    code, _, err = run("inspect", preset_bundle, "--svg", tmp_path / "nowhere" / "network.svg")
    assert code == 1
    assert "network.svg: cannot write: " in err


def test_it_can_be_inspected(run: Run, preset_bundle: Path) -> None:
    code, out, err = run("inspect", preset_bundle, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["config"]["inputs"] == {"general": 486, "domain": 44, "prior": 120}
    assert result["weights"] == sum(v.size for v in Bundle.open(preset_bundle).dense().values())
    assert 0.95 * result["weights"] < result["multiply_adds"] < result["weights"]
    assert {t["name"]: t["rows"] for t in result["tables"]}["page"] == 3
    code, out, err = run("inspect", preset_bundle)
    assert code == 0
    for word in ("output", "486", "click", "page ← tab", "bfloat16", "1077", "dense.onnx", "onnxsim"):
        assert word in out, word
    assert re.search(r"video_id +id +item +video +40 +general prior", out)
    assert f"{result['multiply_adds']:,}" in out


def test_it_can_be_verified(run: Run, preset_bundle: Path) -> None:
    code, out, _ = run("verify", preset_bundle, "--json")
    assert code == 0
    result = json.loads(out)
    assert result["golden"]["rows"] == 16
    assert {name: f["rows"] for name, f in result["fresh"].items()} == {"normal": 1077, "schema": 1077}
    assert 0 < result["fresh"]["schema"]["max_abs"] <= 1e-5
    code, out, _ = run("verify", preset_bundle)
    assert code == 0
    assert "sizes, hashes and values are right" in out
    assert "dense weights in float64" in out


def test_without_torch_the_stored_scores_remain(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pepnet_infer.verify.verify.find_spec", lambda name: None)
    result = verify(toy_bundle)
    assert result["fresh"] is None
    assert 0 < result["golden"]["max_abs"] <= 1e-5
    assert result["backend"]["threads"] == 1


def relist(bundle: Path, name: str) -> None:
    data = (bundle / name).read_bytes()
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_a_forged_graph_is_found_by_its_scores(run: Run, toy_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(toy_bundle, tmp_path / "b"))
    model = onnx.load(bundle / "dense.onnx")
    tensor = next(t for t in model.graph.initializer if t.name == "mix.w")
    values = onnx.numpy_helper.to_array(tensor) * np.float32(1.01)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, "mix.w"))
    onnx.save(model, bundle / "dense.onnx")
    relist(bundle, "dense.onnx")
    code, out, err = run("verify", bundle)
    assert (code, out) == (1, "")
    assert "BundleError: " in err
    assert "golden rows one by one: task 'click': expected 0." in err


def test_weights_that_are_not_the_graphs_are_found(toy_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(toy_bundle, tmp_path / "b"))
    tensors = read_tensors(bundle / "dense.safetensors")
    tensors["mix.w"] *= np.float32(1.01)
    (bundle / "dense.safetensors").unlink()
    write_tensors(bundle / "dense.safetensors", tensors)
    relist(bundle, "dense.safetensors")
    with pytest.raises(BundleError, match=r"dense\.onnx against dense\.safetensors: normal rows, batch \d+: task"):
        verify(bundle)


@pytest.mark.parametrize(
    ("golden", "message"),
    [
        ({"seed": 0}, r"parity\.json: golden: missing key 'scores'"),
        ({"seed": 0, "scores": []}, r"golden\.scores: expected a list of 1 to .*, got a list of 0"),
        ({"seed": 0, "scores": [[0.5]]}, r"golden\.scores\[0\]: expected 2 numbers, got 1"),
        ({"seed": 0, "scores": [["a", "b"]]}, r"golden\.scores\[0\]\[0\]: expected .*number.*, got 'a'"),
        ({"seed": "0", "scores": [[0.5, 0.5]]}, r"golden\.seed: expected an integer .*, got '0'"),
    ],
)
def test_stored_scores_that_are_none_are_refused(toy_bundle: Path, tmp_path: Path, golden, message) -> None:
    bundle = Path(shutil.copytree(toy_bundle, tmp_path / "b"))
    parity = json.loads((bundle / "parity.json").read_text())
    (bundle / "parity.json").write_text(json.dumps({**parity, "golden": golden}))
    relist(bundle, "parity.json")
    with pytest.raises(BundleError, match=message):
        verify(bundle)


def test_failures_end_with_1(run: Run, toy_bundle: Path, toy_checkpoint: Checkpoint, tmp_path: Path) -> None:
    code, out, err = run("export", tmp_path / "nowhere", "--out", tmp_path / "b")
    assert (code, out) == (1, "")
    assert "BundleError: " in err
    assert "nowhere: expected a directory with checkpoint.json, got nothing" in err
    toy_checkpoint.save(tmp_path / "ckpt")
    code, out, err = run("export", tmp_path / "ckpt", "--out", toy_bundle)
    assert (code, out) == (1, "")
    assert (
        "expected nothing there, got an existing manifest.json; to replace it, pass overwrite=True (--overwrite)" in err
    )
    code, _, err = run("inspect", tmp_path)
    assert code == 1
    assert "expected a bundle (a folder with manifest.json), got a folder without it; `pepnet-infer export`" in err
    assert "ckpt: expected a bundle, got a checkpoint; `pepnet-infer export" in run("verify", tmp_path / "ckpt")[2]
    assert sorted(os.listdir(tmp_path)) == ["ckpt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", "preset:nothing", "--out", "b"), "expected a preset of kuaishou, paper, seed, got 'nothing'"),
        (
            ("export", "preset:seed", "--out", "b", "--table-dtype", "int4"),
            "expected one of float32, float16, bfloat16",
        ),
        (("export", "preset:seed", "--out", "b", "--table-rows", "-1"), "Invalid value for '--table-rows'"),
        (("export", "ckpt", "--out", "b", "--table-rows", "9"), "--table-rows is for presets"),
        (("export", "preset:seed"), "Missing option '--out'"),
        (("export",), "Missing argument"),
        (("export", "preset:seed", "--out", ""), "expected a file or folder, got an empty name"),
        (("verify", ""), "expected a file or folder, got an empty name"),
        (("inspect", ""), "expected a file or folder, got an empty name"),
        (("score", "", "in", "--out", "out"), "expected a file or folder, got an empty name"),
        (("publish", "--full", "log", ""), "expected a file or folder, got an empty name"),
        (("verify",), "Missing argument"),
        (("inspect", "a", "b"), "unexpected extra argument"),
    ],
)
def test_wrong_usage_ends_with_2(run: Run, words: tuple[str, ...], message: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert message in err


def test_a_second_call_builds_no_more_than_the_first(run: Run) -> None:
    for _ in range(2):
        assert run("verify")[0] == 2
    assert [command.name for command in app.registered_commands] == list(COMMANDS)
    assert [group.name for group in app.registered_groups] == ["bench"]
