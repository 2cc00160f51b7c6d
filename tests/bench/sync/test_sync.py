"""`bench sync`, from the command line to its files; what its publisher writes is what an engine follows."""

from __future__ import annotations

import json
import os
import signal
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from pepnet_infer.bench.sync import run as sync
from pepnet_infer.bench.sync.publisher import UNREAD, SyncOptions, Trainer, prepare, publisher
from pepnet_infer.bench.sync.run import bearable_rows
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.errors import PepnetError
from pepnet_infer.sync.delta import open_delta
from pepnet_infer.sync.logs.directory import DirectoryLog


@pytest.mark.parametrize("rows", [1, 50, 160])
def test_a_delta_changes_as_many_rows_as_asked_all_over_the_tables(toy_bundle: Path, tmp_path: Path, rows: int) -> None:
    trainer = Trainer(toy_bundle, tmp_path, SyncOptions(dense_every=2), rows)
    versions = [trainer.publish("follow")[0] for _ in range(2)]
    bundle = Bundle.open(toy_bundle)
    assert versions == [bundle.model_version + 1, bundle.model_version + 2]
    entries = DirectoryLog(tmp_path / "follow").read("")
    deltas = [open_delta(entry.path, bundle.schema, bundle.network) for entry in entries]
    assert [delta.dense is not None for delta in deltas] == [False, True]
    for delta in deltas:
        keys = np.concatenate([table.keys for table in delta.rows.values()])
        assert len(keys) == len(np.unique(keys)) == rows
    if rows == 160:
        assert set(deltas[0].rows) == set(bundle.table_paths)


def test_few_deltas_stay_of_the_log_that_nobody_reads(toy_bundle: Path, tmp_path: Path) -> None:
    trainer = Trainer(toy_bundle, tmp_path, SyncOptions(), 5)
    for _ in range(7):
        last = trainer.publish(UNREAD)[0]
        trainer.publish("follow")
    unread = DirectoryLog(tmp_path / UNREAD)
    newest = unread.last_delta()
    assert newest is not None
    assert newest[1].model_version == last
    assert len(unread.read("")) == 4
    assert len(DirectoryLog(tmp_path / "follow").read("")) == 7


def test_a_publisher_that_is_killed_is_said_so(toy_bundle: Path, tmp_path: Path) -> None:
    def killed() -> None:
        with publisher(toy_bundle, tmp_path, SyncOptions(), 5) as process:
            os.kill(process.submit(os.getpid).result(), signal.SIGKILL)
            process.submit(prepare, UNREAD).result()

    with pytest.raises(PepnetError, match="publisher: expected its process to run to the end, it was killed"):
        killed()


def test_the_command_measures_and_writes_its_files(
    run_bench: Callable[..., Result], toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    files = [tmp_path / name for name in ("r.json", "r.md", "r.png")]
    words = ["--rows-per-s", "1000", "--delta-s", "0.05", "--dense-every", "3", "--batch", "20", "--seconds", "6"]
    out = ["--json", str(files[0]), "--markdown", str(files[1]), "--png", str(files[2])]
    for slice_s in (0.25, 1.0, 4.0, 16.0):  # until the machine had time for enough of them
        monkeypatch.setattr(sync, "SLICE_S", slice_s)
        ran = run_bench("sync", toy_bundle, *words, *out, catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        result = json.loads(files[0].read_text())
        data = result["data"]
        scored = sum(len(kind["slices"]) for kind in data["kinds"])
        if data["follower"]["applied"] >= 4 and data["kinds"][1]["deltas"] >= 4 and scored == 3 * data["rounds"]:
            break
    assert result["command"].startswith(
        "pepnet-infer bench sync bundle --rows-per-s 1000 --delta-s 0.05 --dense-every 3"
    )
    assert str(tmp_path) not in files[0].read_text()
    idle, elsewhere, follow = data["kinds"]
    follower = data["follower"]
    assert (follower["applied"], follower["refused"]) == (follow["deltas"], {})
    assert follower["applied"] == follower["visible"]["runs"] >= 4
    assert follower["rows"] == 50 * follower["applied"]
    assert 0 < follower["dense"] < follower["applied"]
    assert elsewhere["deltas"] >= 4
    assert (idle["deltas"], idle["rows_per_s"]) == (0, 0.0)
    assert min(follow["runs"], elsewhere["runs"], idle["runs"]) > 10
    assert 0 <= follower["visible"]["p50_ms"] <= follower["visible"]["max_ms"] < 60_000
    points = [(one["at_s"], one["visible_ms"]) for one in follower["published"]]
    assert points == sorted(points)
    assert len(points) == follower["applied"]
    assert max(millis for _, millis in points) == pytest.approx(follower["visible"]["max_ms"])
    slices = sorted((one["at_s"], kind["what"]) for kind in data["kinds"] for one in kind["slices"])
    assert slices[0][0] == 0
    assert slices[-1][0] >= 5 * slice_s
    for at, _ in points:  # each in a slice in which deltas are published to that log
        assert slices[bisect_right(slices, (at, "~")) - 1][1] == "to the log that is followed"
    for kind in data["kinds"]:
        assert kind["max_ms"] == max(one["max_ms"] for one in kind["slices"])
    assert files[2].read_bytes().startswith(b"\x89PNG")
    page = files[1].read_text()
    assert "1,000 changed rows a second (as asked for)" in page
    assert "![Online sync, bundle](r.png)" in page
    for row in ("nothing is published", "to a log that nobody reads", "to the log that is followed"):
        assert f"| {row} " in page


def test_the_rate_is_a_share_of_what_the_follower_takes(toy_bundle: Path, tmp_path: Path) -> None:
    taken, published = bearable_rows(toy_bundle, tmp_path, SyncOptions(delta_s=0.01, share=1.0))
    assert published == max(100, min(int(taken * sync.BEARABLE), sync.MOST_ROWS_PER_S, 160 * 100))
    _, slow = bearable_rows(toy_bundle, tmp_path / "slow", SyncOptions(delta_s=10.0))
    assert 1 <= slow <= 16  # of 160 rows, a delta in ten seconds


def test_a_bundle_with_fewer_rows_than_a_delta_is_said_so(run_bench: Callable[..., Result], toy_bundle: Path) -> None:
    ran = run_bench("sync", toy_bundle, "--rows-per-s", 100_000, "--seconds", 6)
    assert isinstance(ran.exception, PepnetError)
    assert "expected at least 25000 rows in its tables" in str(ran.exception)
