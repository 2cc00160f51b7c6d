"""`bench cache --quality`: the log as requests, what each cache serves of it, and what is made of the scores."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from pepnet_infer.bench.cache.quality import Ranked
from pepnet_infer.bench.cache.quality_log import RequestLog, read_log
from pepnet_infer.bench.cache.quality_run import Evicted, Setting, most_hits, run
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.cli.bench import bench
from pepnet_infer.cli.export import export
from pepnet_infer.cli.train import train
from pepnet_infer.engine import Engine
from pepnet_infer.errors import SchemaError
from pepnet_infer.export.data.source import open_source
from pepnet_infer.export.data.synthetic import synthetic_run
from pepnet_infer.export.train.metrics import auc
from pepnet_infer.schema.ids import MISSING_KEY

pytest.importorskip("torch")
DATA = "synthetic:4000"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    app = typer.Typer()
    app.command("train")(train)
    app.command("export")(export)
    for words in (
        ["train", DATA, "--epochs", "1", "--seeds", "1", "--out", str(folder / "ckpt")],
        ["export", str(folder / "ckpt"), "--out", str(folder / "bundle")],
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    return folder / "bundle"


@pytest.fixture(scope="module")
def log(bundle: Path) -> RequestLog:
    return read_log(Bundle.open(bundle), open_source(DATA), None)


def test_requests_are_the_rows_that_exposures_read(log: RequestLog) -> None:
    known = set(log.keys.tolist())
    for i in (0, 17, len(log.times) - 1):
        one = log.features.select([i])
        keys = {int(k) for values in one.ids.values() for k in values}
        keys |= {int(k) for bag in one.bags.values() for k in bag.keys}
        read = log.keys[log.places[log.offsets[i] : log.offsets[i + 1]]].tolist()
        assert sorted(read) == sorted(keys & known)
    assert (np.diff(log.times) >= 0).all()


def test_first_test_day_is_told_by_the_scores(bundle: Path, log: RequestLog) -> None:
    source = open_source(DATA)
    first = synthetic_run().train.split.test
    assert log.test == int((source.interactions()[source.day_column].to_numpy() < first).sum())
    other = open_source("synthetic:3000")
    with pytest.raises(SchemaError, match="--test-day: expected a day before which the log explains"):
        read_log(Bundle.open(bundle), other, None)
    assert read_log(Bundle.open(bundle), other, first).test > 0
    with pytest.raises(SchemaError, match="--test-day: expected exposures before and from -5, got 0 before it"):
        read_log(Bundle.open(bundle), source, -5)


@pytest.mark.parametrize("evicted", ["refilled", "lost"])
def test_lru_serves_what_a_plain_lru_serves(log: RequestLog, evicted: Evicted) -> None:
    rows = len(log.keys) // 10
    served = run(log, Setting("lru", rows, evicted, 600.0))
    held: OrderedDict[int, bool] = OrderedDict()
    met: set[int] = set()
    found, trained = [], []
    for i in range(len(log.times)):
        places = log.places[log.offsets[i] : log.offsets[i + 1]].tolist()
        missed = []
        for place in places:
            found.append(place in held)
            trained.append(held.get(place, False))
            if place in held:
                held.move_to_end(place)
            else:
                missed.append(place)
        for place in missed:
            if len(held) == rows:
                held.popitem(last=False)
            held[place] = evicted == "refilled" or place not in met
            met.add(place)
    np.testing.assert_array_equal(served.found, found)
    np.testing.assert_array_equal(served.trained, trained)
    assert 0 < served.trained.mean() < 1
    assert (served.trained != served.found).any() == (evicted == "lost")
    assert most_hits(log, rows).sum() > 0


def test_gset_keeps_what_matters_and_hears_labels(log: RequestLog) -> None:
    rows = len(log.keys) // 10
    early, late = (run(log, Setting("gset", rows, "refilled", delay)) for delay in (60.0, 1e9))
    assert 0 < early.found.mean() < 1
    assert (early.found != late.found).any()


def test_misses_are_served_the_default_row(bundle: Path, log: RequestLog) -> None:
    with Engine.load(bundle, cache=None) as engine:
        rows = log.features.select(slice(log.test, None))
        everything = log.served(np.ones(len(log.places), np.bool_))
        np.testing.assert_array_equal(engine.score_features(everything).values, engine.score_features(rows).values)
        nothing = log.served(np.zeros(len(log.places), np.bool_))
        known = set(log.keys.tolist())
        for name, keys in nothing.ids.items():
            for served, asked in zip(keys.tolist(), rows.ids[name].tolist(), strict=True):
                assert served == (int(MISSING_KEY) if asked in known else asked)
        one = np.zeros(len(log.places), np.bool_)
        place = log.offsets[log.test + 5]
        one[place] = True
        apart = log.served(one)
        changed = [
            (int(row), int(keys[row]))
            for name, keys in apart.ids.items()
            for row in np.flatnonzero(keys != nothing.ids[name])
        ]
        changed += [
            (int(np.searchsorted(bag.offsets, at, "right")) - 1, int(bag.keys[at]))
            for name, bag in apart.bags.items()
            for at in np.flatnonzero(bag.keys != nothing.bags[name].keys)
        ]
        assert changed
        assert set(changed) == {(5, int(log.keys[log.places[place]]))}


def test_weighted_auc_is_that_of_repeated_rows() -> None:
    rng = np.random.default_rng(2)
    labels, scores = rng.random(300) < 0.4, np.round(rng.random(300), 1).astype(np.float32)
    times = rng.integers(0, 4, 300)
    expected = auc(np.repeat(labels, times), np.repeat(scores, times))
    assert Ranked(labels, scores).auc(times.astype(np.float64)) == pytest.approx(expected, abs=1e-12)


def test_command(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = [tmp_path / name for name in ("r.json", "r.png", "r.md")]
    options = ["--json", str(files[0]), "--png", str(files[1]), "--markdown", str(files[2])]
    words = ["--quality", str(bundle), "--quality", str(bundle), "--data", DATA, "--shares", "10%,100%"]
    done = CliRunner().invoke(bench, ["cache", *words, "--policies", "lfu,gset", *options])
    assert done.exit_code == 0, done.output
    result = json.loads(files[0].read_text())
    data = result["data"]
    assert result["command"] == (
        "pepnet-infer bench cache --policies lfu,gset --quality bundle --quality bundle --data synthetic:4000 "
        "--shares 10%,100%"
    )
    assert len(data["cases"]) == 2 * 2 * 2
    for case in data["cases"]:
        whole = case["share"] == 1.0
        assert case["trained_rate"] <= case["hit_rate"] <= data["min_hit_rate"]["1" if whole else "0.1"] + 0.02
        assert list(case["against"]) == ([] if case["policy"] == "lfu" else ["lfu"])
        if whole:  # nothing is ever evicted: every policy serves the same
            assert case["cells"] == data["cases"][-1]["cells"]
            assert all(entry["auc"] == entry["half_95"] == 0 for found in case["against"].values() for entry in found)
        elif case["policy"] == "gset":
            assert [entry["task"] for entry in case["against"]["lfu"]] == data["tasks"]
            assert any(entry["half_95"] > 0 for entry in case["against"]["lfu"])
        assert all(cell["std"] == 0 for cell in case["cells"])  # twice the same bundle
    page = files[2].read_text()
    assert "all of the rows" in page
    assert "AUC by domain" in page
    assert files[1].read_bytes().startswith(b"\x89PNG")
