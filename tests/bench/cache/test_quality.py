"""`bench cache --quality`: the log as requests, what each cache serves of it, and what is made of the scores."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from pepnet_infer.bench.cache.quality import weighted_aucs
from pepnet_infer.bench.cache.quality_log import Evicted, RequestLog, read_log, run
from pepnet_infer.bundle.bundle import Bundle
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
TEST_DAY = synthetic_run().train.split.test


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
    return read_log(Bundle.open(bundle), open_source(DATA), TEST_DAY)


def test_requests_are_the_rows_that_exposures_read(log: RequestLog) -> None:
    known = set(log.keys.tolist())
    for i in (0, 17, len(log.times) - 1):
        one = log.features.select([i])
        keys = {int(k) for values in one.ids.values() for k in values}
        keys |= {int(k) for bag in one.bags.values() for k in bag.keys}
        read = log.keys[log.places[log.offsets[i] : log.offsets[i + 1]]].tolist()
        assert sorted(read) == sorted(keys & known)
    assert (np.diff(log.times) >= 0).all()


def test_the_log_before_the_test_days_explains_the_scores(bundle: Path, log: RequestLog) -> None:
    source = open_source(DATA)
    assert log.test == int((source.interactions()[source.day_column].to_numpy() < TEST_DAY).sum())
    wrong = f"--test-day: expected the log before {TEST_DAY} to explain the bundle's scores"
    with pytest.raises(SchemaError, match=wrong):
        read_log(Bundle.open(bundle), open_source("synthetic:3000"), TEST_DAY)
    with pytest.raises(SchemaError, match=r"--test-day: expected the log before \d+ to explain"):
        read_log(Bundle.open(bundle), source, TEST_DAY - 1)
    with pytest.raises(SchemaError, match="--test-day: expected exposures before and from -5, got 0 before it"):
        read_log(Bundle.open(bundle), source, -5)


@pytest.mark.parametrize("evicted", ["refilled", "lost"])
def test_lru_serves_what_a_plain_lru_serves(log: RequestLog, evicted: Evicted) -> None:
    rows = len(log.keys) // 10
    got_found, got_trained = run(log, "lru", rows, evicted, 600.0)
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
    np.testing.assert_array_equal(got_found, found)
    np.testing.assert_array_equal(got_trained, trained)
    assert 0 < got_trained.mean() < 1
    assert (got_trained != got_found).any() == (evicted == "lost")


def test_gset_keeps_what_matters_and_hears_labels(log: RequestLog) -> None:
    rows = len(log.keys) // 10
    early, late = (run(log, "gset", rows, "refilled", delay)[0] for delay in (60.0, 1e9))
    assert 0 < early.mean() < 1
    assert (early != late).any()


def test_misses_are_served_the_default_row(bundle: Path, log: RequestLog) -> None:
    with Engine.load(bundle, cache=None) as engine:
        rows = log.features.select(slice(log.test, None))
        everything = log.test_features(np.ones(len(log.places), np.bool_))
        np.testing.assert_array_equal(engine.score_features(everything).values, engine.score_features(rows).values)
        nothing = log.test_features(np.zeros(len(log.places), np.bool_))
        known = set(log.keys.tolist())
        for name, keys in nothing.ids.items():
            for served, asked in zip(keys.tolist(), rows.ids[name].tolist(), strict=True):
                assert served == (int(MISSING_KEY) if asked in known else asked)
        one = np.zeros(len(log.places), np.bool_)
        place = log.offsets[log.test + 5]
        one[place] = True
        apart = log.test_features(one)
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
    once, weighted = weighted_aucs(labels, scores, [np.ones(300), times.astype(np.float64)])
    assert once == pytest.approx(auc(labels, scores), abs=1e-12)
    assert weighted == pytest.approx(expected, abs=1e-12)


def test_command(run_bench: Callable[..., Result], bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = [tmp_path / name for name in ("r.json", "r.png", "r.md")]
    options = ["--json", str(files[0]), "--png", str(files[1]), "--markdown", str(files[2])]
    words = ["--quality", str(bundle), "--quality", str(bundle), "--data", DATA, "--test-day", str(TEST_DAY)]
    done = run_bench("cache", *words, "--capacity", "10%,100%", "--policies", "lfu,gset", *options)
    assert done.exit_code == 0, done.output
    result = json.loads(files[0].read_text())
    data = result["data"]
    assert result["command"].startswith(
        f"pepnet-infer bench cache --quality bundle --quality bundle --data synthetic:4000 --test-day {TEST_DAY} "
    )
    assert [size["capacity"] for size in data["sizes"]] == ["10%", "100%"]
    for by in data["cases"].values():
        for policy, (part, whole) in by.items():
            for size, case in zip(data["sizes"], (part, whole), strict=True):
                assert case["trained_rate"] <= case["hit_rate"] <= size["min_hit_rate"] + 0.02
                assert list(case["over"]) == ([] if policy == "lfu" else ["lfu"])
                assert all(auc["std"] == 0 for auc in case["auc"].values())  # twice the same bundle
            # Nothing is ever evicted: every policy serves the same.
            assert whole["auc"] == by["lfu"][1]["auc"]
            differences = [entry for over in whole["over"].values() for entry in over.values()]
            assert all(entry["auc"] == entry["half_95"] == 0 for entry in differences)
        over = by["gset"][0]["over"]["lfu"]
        assert list(over) == data["tasks"][:2]
        assert any(entry["half_95"] > 0 for entry in over.values())
    page = files[2].read_text()
    assert "all of the rows" in page
    assert "Memory for 10% of the rows" in page
    assert files[1].read_bytes().startswith(b"\x89PNG")
