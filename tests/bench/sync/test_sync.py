"""`bench sync`, from the command line to its files; what its publisher writes is what an engine follows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pepnet_infer.bench.sync import run as sync
from pepnet_infer.bench.sync.publisher import shares
from pepnet_infer.bench.sync.run import SyncOptions, bearable_rows
from pepnet_infer.cli.bench import bench
from pepnet_infer.errors import PepnetError


def test_a_delta_changes_rows_of_every_large_table_and_as_many_as_asked() -> None:
    assert shares({"a": 100, "b": 50, "c": 3}, 30) == {"a": 21, "b": 9}
    assert shares({"a": 2, "b": 2}, 4) == {"a": 2, "b": 2}
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = {str(i): int(n) for i, n in enumerate(rng.integers(0, 40, 6))}
        rows = int(rng.integers(0, sum(sizes.values()) + 1))
        counts = shares(sizes, rows)
        assert sum(counts.values()) == rows
        assert all(0 < count <= sizes[name] for name, count in counts.items())
    with pytest.raises(PepnetError, match="expected at least 5 rows in its tables, a delta's, got 4"):
        shares({"a": 4}, 5)


def test_the_command_measures_and_writes_its_files(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    files = [tmp_path / name for name in ("r.json", "r.md", "r.png")]
    words = ["--rows-per-s", "1000", "--delta-s", "0.05", "--dense-every", "3", "--batch", "20", "--seconds", "6"]
    out = ["--json", str(files[0]), "--markdown", str(files[1]), "--png", str(files[2])]
    monkeypatch.setattr(sync, "rounds", lambda options: 2)
    for slice_s in (0.25, 1.0, 4.0, 16.0):  # until the machine had time for enough of them
        monkeypatch.setattr(sync, "SLICE_S", slice_s)
        ran = CliRunner().invoke(bench, ["sync", str(toy_bundle), *words, *out], catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        result = json.loads(files[0].read_text())
        data = result["data"]
        if data["follower"]["applied"] >= 4 and data["kinds"]["elsewhere"]["deltas"] >= 4:
            break
    assert result["command"].startswith(
        "pepnet-infer bench sync bundle --rows-per-s 1000 --delta-s 0.05 --dense-every 3"
    )
    assert str(tmp_path) not in files[0].read_text()
    follow, elsewhere, idle = (data["kinds"][name] for name in ("follow", "elsewhere", "idle"))
    follower = data["follower"]
    assert (follower["applied"], follower["refused"]) == (follow["deltas"], {})
    assert follower["applied"] == data["freshness_ms"]["deltas"] >= 4
    assert follower["rows"] == 50 * follower["applied"]
    assert 0 < follower["dense"] < follower["applied"]
    assert elsewhere["deltas"] >= 4
    assert (idle["deltas"], idle["rows_per_s"]) == (0, 0.0)
    assert min(follow["calls"], elsewhere["calls"], idle["calls"]) > 10
    assert 0 < data["freshness_ms"]["p50"] <= data["freshness_ms"]["max"] < 60_000
    assert all(data["visible_ms"][name] <= data["freshness_ms"][name] for name in ("p50", "p99", "max"))
    assert max(point["version"] for point in data["series"]) <= follower["applied"]
    assert files[2].read_bytes().startswith(b"\x89PNG")
    page = files[1].read_text()
    assert "1,000 changed rows a second (as asked for)" in page
    assert "![Online sync, bundle](r.png)" in page


def test_the_rate_is_a_share_of_what_the_follower_takes(toy_bundle: Path, tmp_path: Path) -> None:
    got = bearable_rows(toy_bundle, tmp_path, SyncOptions(delta_s=0.01, share=1.0))
    assert got["share"] == sync.BEARABLE == 0.25
    assert got["published"] == max(100, min(int(got["taken"] / 4), sync.MOST_ROWS_PER_S, 160 * 100))
    slow = bearable_rows(toy_bundle, tmp_path / "slow", SyncOptions(delta_s=10.0))
    assert 1 <= slow["published"] <= 16  # of 160 rows, a delta in ten seconds


def test_a_bundle_with_fewer_rows_than_a_delta_is_said_so(toy_bundle: Path) -> None:
    ran = CliRunner().invoke(bench, ["sync", str(toy_bundle), "--rows-per-s", "100000", "--seconds", "6"])
    assert isinstance(ran.exception, PepnetError)
    assert "expected at least 25000 rows in its tables" in str(ran.exception)
