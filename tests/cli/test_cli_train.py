"""`pepnet-infer train` as a user runs it: what it writes, what it says where, how it refuses, how it is stopped."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.export.data import synthetic

Run = Callable[..., tuple[int, str, str]]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run(command: Run) -> Iterator[Run]:
    """Runs `train` in this process: see `command`. It sets torch's threads, which is undone here."""
    before = torch.get_num_threads()
    yield functools.partial(command, "train")
    torch.set_num_threads(before)


def test_it_leaves_a_checkpoint_with_its_report(run: Run, tmp_path: Path) -> None:
    out, rows = tmp_path / "ckpt", tmp_path / "test.parquet"
    words = ("--out", out, "--epochs", 1, "--seeds", 2, "--seed", 7, "--test-rows", rows, "--json")
    code, said, err = run("synthetic:3000", *words)
    assert code == 0, err
    report = json.loads(said)
    assert report == json.loads((out / "report.json").read_text())
    assert (out / "report.png").read_bytes().startswith(PNG)
    (model,) = report["models"]
    assert (model["model"], model["seeds"], model["epochs"]) == ("pepnet", [7, 8], [1, 1])
    assert report["rows"]["fit"] + report["rows"]["validation"] == report["rows"]["train"]
    click = model["metrics"][0]
    assert (click["task"], click["domain"], click["rows"]) == ("click", "all", report["rows"]["test"])
    assert len(click["auc"]["seeds"]) == 2
    assert click["auc"]["mean"] == pytest.approx(sum(click["auc"]["seeds"]) / 2)
    saved = Checkpoint.load(out)
    assert saved.config.model == "pepnet"
    assert dict(saved.meta) == {"data": "synthetic", "seed": 7, "epochs": 1}
    log = pq.read_table(rows)
    assert log.num_rows == report["rows"]["test"]
    assert set(log["day"].to_pylist()) == {5}
    assert set(saved.schema.columns) <= set(log.column_names)


def test_people_get_tables_on_stdout_and_progress_on_stderr(run: Run, tmp_path: Path) -> None:
    code, said, err = run("synthetic:3000", "--out", tmp_path / "ckpt", "--epochs", 1, "--model", "mmoe")
    assert code == 0, err
    assert "mmoe: epochs 1; seeds 0" in said
    assert "AUC by domain" in said
    assert "discover" in said
    assert "≈ fewer than 200 positives or negatives: not stable" in said
    assert "mmoe, seed 0: refit, epoch 1" in err
    assert Checkpoint.load(tmp_path / "ckpt").config.model == "mmoe"


def test_compare_prints_all_models_and_keeps_pepnet(run: Run, tmp_path: Path) -> None:
    config = Path(synthetic.__file__).with_name("synthetic.yaml")
    words = ("--out", tmp_path / "ckpt", "--config", config, "--epochs", 1, "--compare")
    code, said, err = run("synthetic:2000", *words)
    assert code == 0, err
    for name in ("pepnet w/o EPNet", "pepnet w/o PPNet", "deepfm", "dcnv2", "shared_bottom", "mmoe", "ple"):
        assert name in said
    assert Checkpoint.load(tmp_path / "ckpt").config.model == "pepnet"
    assert len(json.loads((tmp_path / "ckpt" / "report.json").read_text())["models"]) == 8


def test_a_taken_target_is_refused_before_the_work(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    code, _, err = run("synthetic:3000", "--out", tmp_path / "mine", "--overwrite")
    assert code == 1
    assert "BundleError" in err
    assert "got other files" in err
    assert "encode" not in err
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


def test_overwrite_replaces_a_checkpoint(run: Run, tmp_path: Path) -> None:
    words = ("synthetic:2000", "--out", tmp_path / "ckpt", "--epochs", 1)
    assert run(*words)[0] == 0
    code, _, err = run(*words)
    assert code == 1
    assert "to replace it, pass overwrite=True (--overwrite)" in err
    assert run(*words, "--seed", 5, "--overwrite")[0] == 0
    assert Checkpoint.load(tmp_path / "ckpt").meta["seed"] == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("synthetic", "--model", "bert"), "--model: expected one of pepnet, deepfm, "),
        (("synthetic", "--compare", "--model", "mmoe"), "--compare trains every model: leave --model out"),
        (("kuairand:here",), "--config: expected a yaml file"),
        (("synthetic", "--test-rows", ""), "expected a file or folder, got an empty name"),
        (("synthetic", "--seeds", "0"), "Invalid value for '--seeds'"),
    ],
)
def test_wrong_usage_ends_with_2(run: Run, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    code, _, err = run(*words, "--out", tmp_path / "ckpt")
    assert code == 2
    assert message in err
    assert not (tmp_path / "ckpt").exists()


def test_failures_end_with_1_and_name_what_is_off(run: Run, tmp_path: Path) -> None:
    code, _, err = run("synthetic:0", "--out", tmp_path / "ckpt")
    assert code == 1
    assert "SchemaError: data: expected kuairand:DIR, synthetic or synthetic:ROWS, got 'synthetic:0'" in err
    config = Path(__file__).parents[2] / "examples" / "kuairand.yaml"
    code, _, err = run(f"kuairand:{tmp_path}", "--config", config, "--out", tmp_path / "ckpt")
    assert code == 1
    assert "expected interactions.parquet or log_standard_*.csv, got neither" in err


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    built_in = yaml.safe_load((Path(synthetic.__file__).with_name("synthetic.yaml")).read_text())
    built_in["train"]["patience"] = 500  # it would stop by itself soon
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(built_in))
    words = ["train", "synthetic:20000", "--epochs", "500", "--config", str(config), "--out", str(tmp_path / "ckpt")]
    process = subprocess.Popen(
        [sys.executable, "-m", "pepnet_infer.cli.main", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": "200"},  # a terminal's progress: lines as they change
    )
    assert process.stderr is not None
    said = ""
    while "epoch 2" not in said:
        part = process.stderr.read(64)
        assert part, said
        said += part
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=60)
    assert process.returncode in (1, 130)
    assert "Traceback" not in said + rest + out
    assert os.listdir(tmp_path) == ["config.yaml"]
