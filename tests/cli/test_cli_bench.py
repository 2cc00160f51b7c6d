"""`pepnet-infer bench`, from the command line to its files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec import structs
from typer.testing import Result

from pepnet_infer.bench.harness.report import Report
from pepnet_infer.bench.latency import limits, overhead
from pepnet_infer.bench.latency import run as latency_run
from pepnet_infer.bench.latency.run import LatencyOptions
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.errors import BackendError, BundleError, PepnetError

PEERS = "onnxruntime,engine-onnxruntime,engine-native"
GUIDE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


@pytest.fixture
def run(run_bench: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `pepnet-infer bench ...` in this process, with a quick look at the machine's limits and quick turns."""
    monkeypatch.setattr(limits, "SHAPES", ((16, 32, 32),))
    monkeypatch.setattr(limits, "SECONDS_A_TRY", 0.01)
    monkeypatch.setattr(limits, "last_level_cache", lambda: 1 << 20)
    monkeypatch.setattr(overhead, "SECONDS", 0.0)
    measure = latency_run.measure_latency

    def measure_latency(bundle: Bundle, name: str, options: LatencyOptions, say: Callable[[str], None]) -> Report:
        plan = structs.replace(options.plan, warm_s=0.002)  # a tenth: hundreds of turns warm up
        return measure(bundle, name, structs.replace(options, plan=plan), say)

    monkeypatch.setattr(latency_run, "measure_latency", measure_latency)

    return run_bench


@pytest.fixture
def interactions(tmp_path: Path, toy_batch: Callable[..., dict[str, Any]]) -> Path:
    """500 valid rows for the toy bundle, in two files."""
    folder = tmp_path / "in" / "day=1"
    folder.mkdir(parents=True)
    for part in range(2):
        batch = toy_batch(250, seed=part)
        columns = {
            name: pa.ListArray.from_arrays(column[1].astype(np.int32), column[0])
            if isinstance(column, tuple)
            else column
            for name, column in batch.items()
        }
        pq.write_table(pa.table(columns), folder / f"part-{part}.parquet")
    return tmp_path / "in"


def test_latency_writes_all_it_was_asked_for(run: Callable[..., Result], toy_bundle: Path, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"result.{kind}" for kind in ("json", "png", "markdown")}
    options = [f"--json={files['json']}", "--markdown", files["markdown"], f"--png={files['png']}"]
    done = run("latency", toy_bundle, "--batch=1,8", "--seconds", 0, "--threads", 1, "--peers", PEERS, *options)
    assert done.exit_code == 0, done.output
    text = files["json"].read_text()
    assert str(tmp_path) not in text
    assert str(toy_bundle.parent) not in text
    result = json.loads(text)
    data = result["data"]
    rows = data["rows"]
    assert [(r["name"], r["batch"]) for r in rows] == [(p, b) for b in (1, 8) for p in PEERS.split(",")]
    for row in rows:
        assert row["runs"] >= 30
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["max_abs"] < 1e-5
        assert row["threads"] == row["settings"]["threads"] == 1
        assert row["matrix_share"] > 0
        for versus in row["speedups"].values():
            assert versus["low"] <= versus["ratio"] <= versus["high"]
    assert data["missing"] == []
    assert [r["batch"] for r in data["end_to_end"] if r["name"] == "rank fp32"] == [1, 8]
    assert [r["batch"] for r in data["overhead"]] == [1, 64]
    assert 0 <= data["others_busy"] <= 1
    assert result["command"] == (
        f"pepnet-infer bench latency bundle --batch=1,8 --seconds 0 --threads 1 --peers {PEERS}"
    )
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    page = files["markdown"].read_text()
    assert "![Latency of bundle](result.png)" in page
    assert "**Machine**" in page
    assert "\nMachine\n" not in done.stdout
    for text in (done.stdout, page):
        for said in ("over onnxruntime", "score fp32, hit rate 0.9", "Overhead of a call", "engine-onnxruntime"):
            assert said in text
        assert "1 threads for every peer; other processes used" in text
    assert "wrote" in done.stderr


def test_a_quick_look_has_the_guide_s_own_peer_beside_it(
    run: Callable[..., Result], toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "my_peer.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    done = run(
        "latency", toy_bundle, "--quick", "--batch", 4, "--threads", 1, "--peer", "my_peer:build", "--json", "r.json"
    )
    assert done.exit_code == 0, done.output
    result = json.loads(Path("r.json").read_text())
    rows = {row["name"]: row for row in result["data"]["rows"]}
    assert list(rows) == ["onnxruntime", "engine-native", "engine-native-bf16", "engine-native-int8", "my_peer:build"]
    own = rows["my_peer:build"]
    assert (own["precision"], own["settings"]) == ("fp32", {"threads": 1, "weights": "float16"})
    assert 1e-6 < own["rms"] < 0.01
    assert result["data"]["end_to_end"] == result["data"]["overhead"] == []
    assert result["command"] == ("pepnet-infer bench latency bundle --quick --batch 4 --threads 1 --peer my_peer:build")
    assert "my_peer:build" in done.stdout


def test_a_quick_look_needs_no_subcommand_and_keeps_to_the_columns_there_are(
    run: Callable[..., Result], toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    done = run("--quick", toy_bundle)
    assert done.exit_code == 0, done.output
    for size in (1, 64, 256):
        assert f"Dense part, batch {size}\n" in done.stdout
    table = done.stdout[done.stdout.index("Dense part, batch 1\n") : done.stdout.index("Dense part, batch 64\n")]
    assert max(map(len, table.splitlines())) <= 60
    assert sum(line.startswith("engine-native-bf16 ") for line in table.splitlines()) > 1  # in every block


def test_latency_without_end_to_end(run: Callable[..., Result], toy_bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    done = run(
        *("latency", toy_bundle, "--batch", 4, "--seconds", 0, "--peers", "onnxruntime,openvino"),
        *("--no-end-to-end", "--json", target),
    )
    assert done.exit_code == 0, done.output
    data = json.loads(target.read_text())["data"]
    assert data["end_to_end"] == []
    assert [row["name"] for row in data["rows"]] == ["onnxruntime", "openvino"]
    assert "End to end" not in done.stdout


@pytest.mark.slow
def test_latency_makes_a_preset_first(run: Callable[..., Result], tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    done = run(
        *("latency", "preset:seed", "--rows-per-table", 50, "--batch", 1, "--seconds", 0, "--peers", "onnxruntime"),
        *("--json", target),
    )
    assert done.exit_code == 0, done.output
    result = json.loads(target.read_text())
    assert result["data"]["bundle"] == "preset:seed"
    assert result["command"].startswith("pepnet-infer bench latency preset:seed --rows-per-table 50 --batch 1 ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--peers", "tensorflow"), "expected some of torch, torch-bf16"),
        (("--peers", "onnxruntime,onnxruntime"), "expected each name once"),
        (
            ("--peers", "engine-onnxruntime-bf16"),
            "engine-cuda, engine-cuda-bf16, got 'engine-onnxruntime-bf16'",
        ),
        (("--batch", "1,x"), "expected distinct positive integers with commas, got '1,x'"),
        (("--batch", "0"), "expected distinct positive integers"),
        (("--batch", "8,8"), "expected distinct positive integers"),
        (("--runs", "29"), "--runs"),
        (("--rows-per-table", "5"), "expected it with preset:NAME only"),
    ],
)
def test_latency_wrong_usage(
    run: Callable[..., Result], toy_bundle: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run("latency", toy_bundle, *arguments)
    assert done.exit_code == 2
    said = " ".join(done.stderr.replace("│", " ").split())  # typer draws a box and breaks lines
    assert message in said


def test_latency_names_the_peer_that_was_asked_for_and_cannot_run(
    run: Callable[..., Result], toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEPNET_ISA", "mmx")
    done = run("latency", toy_bundle, "--batch", 1, "--peers", "onnxruntime,engine-native-int8")
    assert done.exit_code == 1
    assert isinstance(done.exception, BackendError)
    message = "peers: engine-native-int8 was asked for and cannot run: BackendError: PEPNET_ISA: isa: expected"
    assert str(done.exception).startswith(message)


def test_latency_of_nothing(run: Callable[..., Result], tmp_path: Path) -> None:
    done = run("latency", tmp_path / "none", "--peers", "onnxruntime")
    assert isinstance(done.exception, BundleError)
    assert "none" in str(done.exception)


def test_offline_scores_the_input_so_many_times(
    run: Callable[..., Result], toy_bundle: Path, interactions: Path, tmp_path: Path
) -> None:
    target, page = tmp_path / "r.json", tmp_path / "r.md"
    done = run(
        *("offline", toy_bundle, interactions, "--scale", "1,3", "--threads", 1, "--runs", 2),
        *("--json", target, "--markdown", page),
    )
    assert done.exit_code == 0, done.output
    text = target.read_text()
    assert str(tmp_path) not in text
    result = json.loads(text)
    once, thrice = result["data"]["rows"]
    assert (once["scale"], once["rows"], once["files"], once["runs"]) == (1, 500, 2, 2)
    assert (thrice["scale"], thrice["rows"], thrice["files"]) == (3, 1500, 2)
    for row in (once, thrice):
        assert row["rows_per_s"] == pytest.approx(row["rows"] / row["seconds"])
        assert 10 << 20 < row["peak_rss"] < 2 << 30
    assert result["command"] == "pepnet-infer bench offline bundle in --scale 1,3 --threads 1 --runs 2"
    assert "Peak at 3× over that at 1×" in page.read_text()
    assert "1,500" in done.stdout


def test_offline_tells_what_scoring_refused(run: Callable[..., Result], toy_bundle: Path, interactions: Path) -> None:
    path = interactions / "day=1" / "part-1.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index("tab"), "tab", pa.array([9] * 250)), path)
    done = run("offline", toy_bundle, interactions, "--scale", 1)
    assert isinstance(done.exception, PepnetError)
    assert "scoring ended with exit code 1: SchemaError: " in str(done.exception)
    assert "a known domain (0, 1, 4), got 9" in str(done.exception)
    assert run("offline", toy_bundle, interactions, "--scale", 1, "--on-bad-row", "null").exit_code == 0


def test_offline_wants_an_input(run: Callable[..., Result], toy_bundle: Path, tmp_path: Path) -> None:
    assert run("offline", toy_bundle).exit_code == 2
    done = run("offline", toy_bundle, tmp_path / "gone.parquet")
    assert isinstance(done.exception, PepnetError)
    assert "gone.parquet: expected a file, folder or pattern, got nothing there" in str(done.exception)


def test_bench_is_part_of_the_command_line() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "pepnet_infer.cli.main", "bench", "--help"], capture_output=True, text=True, check=True
    )
    assert "latency" in shown.stdout
    assert "offline" in shown.stdout
