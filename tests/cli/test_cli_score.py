"""`pepnet-infer score` as a user runs it."""

from __future__ import annotations

import json
import os
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

from pepnet_infer import StoreError
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.row_batch import RowBatch

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(toy_bundle: Path, toy_table: Callable[..., pa.Table], tmp_path: Path) -> Run:
    """Runs `score BUNDLE …` in a folder with in/a.parquet and in/sub/b.parquet."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    pq.write_table(toy_table(100, 1), tmp_path / "in" / "a.parquet")
    pq.write_table(toy_table(50, 2), tmp_path / "in" / "sub" / "b.parquet")

    def call(*arguments: str, bundle: Path = toy_bundle) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pepnet_infer.cli.main", "score", str(bundle), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return call


def test_scores_a_folder_and_says_what_it_did(run: Run, tmp_path: Path) -> None:
    done = run("in", "--out", "out", "--threads", "1", "--batch-rows", "64")
    assert done.returncode == 0, done.stderr
    assert "150 rows in 2 files scored in" in done.stdout
    assert "rows/s, written to out" in done.stdout
    assert re.search(r"model version 7 on (native \w+|onnxruntime cuda) fp32, 1 threads", done.stdout)
    assert "ids that the model does not know, scored with the default row: user_id 33, video_id " in done.stdout
    lines = [line.split(" ", 1)[1] for line in done.stderr.splitlines()]  # without the time
    assert lines[:3] == ["load the bundle", "check the inputs", "score 150 rows in 2 files"]
    assert re.fullmatch(r"in/a\.parquet: 100 rows, 0 null rows, \d+\.\d s, [\d,]+ rows/s \(file 1 of 2\)", lines[3])
    assert lines[4].startswith("in/sub/b.parquet: 50 rows, ")
    for name, rows in (("a", 100), ("sub/b", 50)):
        out = pq.read_table(tmp_path / "out" / f"{name}.parquet")
        assert out.num_rows == rows
        assert out.column_names == ["user_id", "video_id", "tab", "score_click", "score_like"]
    again = run("in", "--out", "out", "--threads", "1", "--batch-rows", "64")
    assert "2 kept that an earlier run had finished, 150 rows" in again.stdout
    assert run("in", "--out", "out", "--progress", "none").stderr == ""
    assert "2 files" in run("in", "--out", "out", "--batch-rows", "64", "--no-resume").stdout


def test_json_and_chosen_columns(run: Run, tmp_path: Path) -> None:
    done = run(
        "in/*.parquet", "in/sub/b.parquet", "--out", "out", "--columns", "age, tab", "--json", "--backend", "auto"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["rows"], result["files"], result["null_rows"], result["skipped"]) == (150, 2, 0, [])
    assert result["tasks"] == ["click", "like"]
    assert result["backend"]["why"].startswith("auto: ")
    assert result["model_version"] == 7
    assert 10 << 20 < result["peak_rss"] < 2 << 30
    out = pq.read_table(tmp_path / "out" / "b.parquet")
    assert out.column_names == ["age", "tab", "score_click", "score_like"]


def test_no_column_is_carried_through_where_none_is_named(
    toy_bundle: Path, toy_table: Callable[..., pa.Table], command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    pq.write_table(toy_table(5), tmp_path / "a.parquet")
    code, _, said = command("score", toy_bundle, tmp_path / "a.parquet", "--out", tmp_path / "out", "--columns", "")
    assert code == 0, said
    assert pq.read_schema(tmp_path / "out" / "a.parquet").names == ["score_click", "score_like"]


def test_the_cache_is_chosen_and_shown(run: Run, tmp_path: Path) -> None:
    done = run("in", "--out", "lru", "--cache-policy", "lru", "--cache-bytes", "2MiB", "--json")
    assert done.returncode == 0, done.stderr
    cache = json.loads(done.stdout)["cache"]
    assert cache["policy"] == "lru"
    assert cache["total"]["hits"] > 0
    assert cache["memory_bytes"] <= 2 << 20
    assert json.loads(run("in", "--out", "none", "--cache-policy", "none", "--json").stdout)["cache"] is None
    assert (tmp_path / "lru" / "a.parquet").read_bytes() == (tmp_path / "none" / "a.parquet").read_bytes()
    assert re.search(r"gset cache: \d+\.\d% of [\d,]+ ids were there, ", run("in", "--out", "gset").stdout)


def test_bad_rows_are_counted_with_null(run: Run, tmp_path: Path) -> None:
    table = pq.read_table(tmp_path / "in" / "a.parquet")
    tabs = [9, *table["tab"].to_pylist()[1:]]
    pq.write_table(table.set_column(table.column_names.index("tab"), "tab", pa.array(tabs)), tmp_path / "bad.parquet")
    failed = run("bad.parquet", "--out", "out")
    assert failed.returncode == 1
    said = " ".join(failed.stderr.split())
    assert "error: SchemaError: bad.parquet: column 'tab': expected a known domain (0, 1, 4), got 9 at row 0" in said
    done = run("bad.parquet", "--out", "out", "--on-bad-row", "null")
    assert done.returncode == 0, done.stderr
    assert "1 bad rows have null scores; the first of each column:" in done.stdout
    assert "bad.parquet: column 'tab': expected a known domain (0, 1, 4), got 9 at row 0" in done.stdout
    assert pq.read_table(tmp_path / "out" / "bad.parquet")["score_click"].null_count == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["in", "--out", "out", "--backend", "tpu"],
            1,
            "BackendError: backend: expected one of auto, native, ",
        ),
        (
            ["in", "--out", "out", "--backend", "onnxruntime", "--precision", "bf16"],
            1,
            "BackendError: precision: onnxruntime has fp32, got 'bf16'",
        ),
        (["in", "--out", "out", "--threads", "0"], 2, "Invalid value for '--threads': "),
        (["in", "--out", "out", "--threads", "-2"], 2, "Invalid value for '--threads': "),
        (["in", "--out", "out", "--threads", "1025"], 2, "Invalid value for '--threads': "),
        (["in", "--out", "out", "--thread", "1"], 2, "No such option"),  # how it goes on is click's
        (["in", "--out", "out", "--max-bad-rows", "3"], 2, "--max-bad-rows counts rows with null scores: add --on-bad"),
        (["nowhere", "--out", "out"], 1, "PepnetError: nowhere: expected a file, folder or pattern, got nothing there"),
        (
            ["in", "--out", "s3://bucket/out"],
            1,
            "PepnetError: s3://bucket/out: expected a local folder, got a URL; copy",
        ),
        (
            ["s3://b/in", "--out", "out"],
            1,
            "PepnetError: s3://b/in: expected a local file, folder or pattern, got a URL",
        ),
        (["in", "--out", "in/out"], 1, "PepnetError: in/out: expected an output folder outside the input folder in"),
        (["in", "--out", "out", "--on-fault", "skip"], 2, "'skip' is not one of 'raise', 'unfinished', 'accept'"),
        (["in", "--out", "out", "--on-bad-row", "skip"], 2, "'skip' is not one of 'raise', 'null'"),
        (["in", "--out", "out", "--cache-bytes", "some"], 1, "ConfigError: capacity: expected bytes, as an integer"),
        (["in", "--out", "out", "--cache-policy", "fifo"], 2, "'fifo' is not one of 'lru', 'gset'"),
        (["in", "--out", "out", "--device", "gpu"], 1, "ConfigError: device: expected cpu, cuda, cuda:N or auto, got"),
        (["in"], 2, "Missing option '--out'"),
        (["--out", "out"], 2, "Missing argument 'INPUT...'"),
    ],
)
def test_exit_codes_tell_failure_from_wrong_usage(
    run: Run, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["in"]


def test_rows_that_the_store_does_not_deliver_are_told_by_the_exit_code(
    command: Callable[..., tuple[int, str, str]],
    run: Run,
    toy_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows_of = MmapStore.get_many

    def fail_at(store: MmapStore, keys: Any, dim: int) -> RowBatch:
        if (keys & np.uint64((1 << 48) - 1)).max() >= 40:  # what is not in the cache from the start
            raise StoreError("a disk that is gone")
        return rows_of(store, keys, dim)

    monkeypatch.setattr(MmapStore, "get_many", fail_at)
    arguments = ("score", toy_bundle, tmp_path / "in", "--out", tmp_path / "out", "--threads", 1)
    code, _, said = command(*arguments)
    assert code == 1
    assert "error: StoreError: " in said
    assert "a disk that is gone. Run again to go on from this file, or see on_fault" in said
    code, out, said = command(*arguments, "--on-fault", "unfinished", "--json")
    result = json.loads(out)
    assert code == 3
    assert result["unfinished"] == [str(tmp_path / "out" / name) for name in ("a.parquet", "sub/b.parquet")]
    assert result["unavailable"] == {"user_id": 33, "video_id": 33, "watched": 159}
    assert result["unknown"] == {}
    assert not (tmp_path / "out" / "a.parquet").exists()
    code, out, said = command(*arguments, "--on-fault", "unfinished")
    assert code == 3
    assert "ids scored with the default row because the store of rows failed: user_id 33, video_id 33" in out
    assert "not finished because of that:" in out
    assert "incomplete: 2 files have default rows because the store failed; the same command scores them anew" in said
    assert command(*arguments, "--on-fault", "accept")[0] == 0
    monkeypatch.undo()
    done = run("in", "--out", "out", "--threads", "1", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["files"] == 2  # accepted by another rule only
    assert json.loads(done.stdout)["unknown"] == {"user_id": 33, "video_id": 33, "watched": 159}
