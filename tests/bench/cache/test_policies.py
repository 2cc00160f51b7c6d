"""`bench cache --trace`: capacities, traces and their faults, and figures that hold what they must."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import Result

from pepnet_infer import _kernels
from pepnet_infer.bench.cache.policies import EXACT, MIN, SERVES, Trace, measure_policies, read_trace, replay, rows_of
from pepnet_infer.errors import PepnetError, SchemaError
from pepnet_infer.rows.cache.config import POLICIES


def _trace(accesses: int = 20_000, ids: int = 2_000) -> Trace:
    rng = np.random.default_rng(5)
    weights = 1 / np.arange(1, ids + 1)
    return Trace("zipf", rng.choice(ids, accesses, p=weights / weights.sum()).astype(np.uint64))


def test_all_policies_against_min() -> None:
    trace = _trace()
    data = measure_policies(trace, ["64", "10%"], POLICIES, None, lambda _: None).data
    assert [capacity["capacity"] for capacity in data["capacities"]] == ["64", "10%"]
    for capacity in data["capacities"]:
        by = {(case["policy"], case["form"]): case for case in capacity["cases"]}
        assert len(by) == 11
        best = by[MIN, ""]
        assert best["hits"] == _kernels.studies.belady(trace.keys, capacity["rows"])
        assert best["gap_closed"] == 1.0
        assert by["lru", EXACT]["gap_closed"] == 0.0
        for (policy, form), case in by.items():
            assert case["hit_percent"] == 100 * case["hits"] / 20_000 <= best["hit_percent"]
            if form == SERVES:
                apart = 100 * (case["hits"] - by[policy, EXACT]["hits"]) / 20_000
                assert case["points_from_exact"] == pytest.approx(apart)
            else:
                assert case["points_from_exact"] is None
    small, large = ([case["hits"] for case in capacity["cases"]] for capacity in data["capacities"])
    assert all(a < b for a, b in zip(small, large, strict=True))


def test_labels_change_what_gset_keeps() -> None:
    """Half of the ids are only ever positive, and in turn with the others: with labels gset keeps those."""
    ids = np.tile(np.arange(200, dtype=np.uint64), 50)
    positive = ids % 2 == 0
    times = np.arange(len(ids), dtype=np.float64) * 60
    plain, labelled = Trace("plain", ids, times), Trace("labelled", ids, times, positive)
    assert replay(labelled, "gset", 120, EXACT, 60.0) == 100 * 49
    assert replay(plain, "gset", 120, EXACT, 60.0) == 0
    assert replay(labelled, "lru", 120, EXACT, 60.0) == 0


def test_scores_decay_with_the_trace_s_clock() -> None:
    """Ids that were hot long ago give way to those of today, unless the clock stands still."""
    old, new = np.tile(np.arange(50, dtype=np.uint64), 40), np.tile(np.arange(50, 100, dtype=np.uint64), 20)
    keys = np.concatenate([old, new])
    month = np.concatenate([np.zeros(len(old)), 100 * 86_400.0 + np.arange(len(new))])
    moving = replay(Trace("t", keys, month), "lfu", 50, EXACT)
    still = replay(Trace("t", keys, np.zeros(len(keys))), "lfu", 50, EXACT)
    assert moving == 50 * 39 + 50 * 19
    assert still < 50 * 39 + 50


@pytest.mark.parametrize(("text", "rows"), [("64", 64), ("10%", 200), ("0.5%", 10), ("7", 7)])
def test_capacities(text: str, rows: int) -> None:
    assert rows_of(text, 2000) == rows


@pytest.mark.parametrize("text", ["", "x", "-3", "0", "0.01%", "nan%", "1e999%", "5MiB", "%"])
def test_bad_capacities(text: str) -> None:
    with pytest.raises(PepnetError, match="--capacity: expected"):
        rows_of(text, 1000)


def _file(folder: Path, **columns: object) -> Path:
    path = folder / "trace.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": [1]}, "expected a column 'key', got id"),
        ({"key": pa.array([], pa.uint64())}, "expected accesses, got none"),
        ({"key": [1.0, 2.0]}, "trace.parquet: column 'key': expected integers, got double"),
        ({"key": [1, None]}, "column 'key': expected no nulls, got 1"),
        ({"key": [1, 2], "time": ["a", "b"]}, "column 'time': expected seconds, got string"),
        ({"key": [1, 2], "time": [0.0, float("nan")]}, "column 'time': expected finite seconds"),
        (
            {"key": [1, 2, 3], "time": [0, 5, 4]},
            "'time': expected seconds that never go back, got less at row 2",
        ),
        ({"key": [1, 2], "positive": [0, 1]}, "column 'positive': expected bool, got int64"),
    ],
)
def test_bad_traces(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        read_trace(_file(tmp_path, **columns))


def test_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("no")
    with pytest.raises(SchemaError, match="expected a parquet file"):
        read_trace(tmp_path / "t.parquet")


def test_command(run_bench: Callable[..., Result], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = _file(
        tmp_path,
        key=pa.array(_trace(5000, 500).keys),
        time=np.arange(5000) * 30.0,
        positive=np.arange(5000) % 3 == 0,
    )
    files = [tmp_path / name for name in ("r.json", "r.png", "r.md")]
    options = [text for flag, file in zip(("--json", "--png", "--markdown"), files, strict=True)
               for text in (flag, str(file))]  # fmt: skip
    run = run_bench("cache", "--trace", path, "--capacity", "32,20%", *options)
    assert run.exit_code == 0, run.output
    result = json.loads(files[0].read_text())
    assert result["kind"] == "cache-policies"
    assert result["command"] == "pepnet-infer bench cache --trace trace.parquet --capacity 32,20%"
    assert files[1].read_bytes().startswith(b"\x89PNG")
    page = files[2].read_text()
    for said in (
        "interval, which is a day; gset counts the trace",
        "| MIN ",
        "**32 rows (32)**",
        "![Cache policies on trace.parquet](r.png)",
    ):
        assert said in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected either a parquet file or --quality BUNDLE, got none"),
        (["--trace", "t", "--quality", "b"], "expected either a parquet file or --quality BUNDLE, got both"),
        (["--quality", "b"], "expected --data and --test-day with it"),
        (["--quality", "b", "--data", "synthetic"], "expected --data and --test-day with it"),
        (["--trace", "t", "--capacity", "5, 10%,5"], "expected each capacity once, got '5, 10%,5'"),
        (["--trace", "t", "--policies", "lru,fifo"], "expected some of lru, gset, lfu, sieve, s3fifo, got 'fifo'"),
    ],
)
def test_bad_usage(run_bench: Callable[..., Result], arguments: list[str], message: str) -> None:
    run = run_bench("cache", *arguments, env={"COLUMNS": "200"})
    assert run.exit_code == 2
    assert message in run.output
