"""Passes over a log: what each says it changed is all that changed, and ids come when they have been seen enough."""

from __future__ import annotations

import numpy as np
import pytest

from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.errors import SchemaError
from pepnet_infer.export.data.dataset import Dataset, build_dataset
from pepnet_infer.export.data.synthetic import Synthetic, SyntheticConfig, synthetic_run
from pepnet_infer.export.run_config import ScoreConfig, Split, TrainConfig, model_config
from pepnet_infer.export.train.online import Learnt, OnlineTrainer
from pepnet_infer.schema.ids import MISSING_KEY

pytestmark = pytest.mark.usefixtures("one_torch_thread")
GSET = ScoreConfig(beta=0.2, r=2.0, interval=12 * 3600.0, positive="like")
SETTINGS = TrainConfig(Split(test=1), batch=64, min_count=3, id_dropout=0.05, gset=GSET)
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    config = SyntheticConfig(rows=1500, users=150, items=300, authors=40, days=2)
    return build_dataset(Synthetic(config), synthetic_run().schema, SETTINGS)


def trainer_of(dataset: Dataset, seed: int = 0) -> OnlineTrainer:
    config = model_config({"experts": 2, "layers": [8], "towers": [4]}, dataset.schema)
    return OnlineTrainer(dataset, config, SETTINGS, seed)


def passes(dataset: Dataset, hours: int = 6) -> list[tuple[np.ndarray, int]]:
    start = int(dataset.times[0])
    edges = [start + n * hours * HOUR_MS for n in range(1, 48 // hours + 1)]
    cuts = [0, *np.searchsorted(dataset.times, edges)]
    return [(np.arange(a, b), edge) for a, b, edge in zip(cuts[:-1], cuts[1:], edges, strict=True)]


class Copy:
    """What somebody has who took a checkpoint and what every pass after it touched."""

    def __init__(self, first: Checkpoint) -> None:
        self.rows = {name: dict(zip(t.keys.tolist(), t.rows, strict=True)) for name, t in first.tables.items()}
        self.defaults = {name: table.default for name, table in first.tables.items()}

    def take(self, learnt: Learnt, trainer: OnlineTrainer) -> None:
        for name, part in learnt.tables.items():
            self.rows[name].update(zip(part.keys.tolist(), trainer.rows(name, part.keys), strict=True))
            if part.default is not None:
                self.defaults[name] = part.default


def test_first_checkpoint_and_passes_make_the_last_checkpoint(dataset: Dataset) -> None:
    trainer = trainer_of(dataset)
    stream = passes(dataset)
    for rows, ends in stream[:3]:
        trainer.learn(rows, ends)
    first = trainer.checkpoint({})
    copy = Copy(first)
    for rows, ends in stream[3:]:
        learnt = trainer.learn(rows, ends)
        copy.take(learnt, trainer)
    last = trainer.checkpoint({})
    appeared = 0
    for name, table in last.tables.items():
        held = copy.rows[name]
        assert sorted(held) == table.keys.tolist()
        np.testing.assert_array_equal(np.array([held[key] for key in table.keys.tolist()]), table.rows)
        np.testing.assert_array_equal(copy.defaults[name], table.default)
        appeared += len(table.keys) - len(first.tables[name].keys)
    assert appeared > 50
    for name, weights in last.dense.items():
        np.testing.assert_array_equal(weights, learnt.dense[name])


def test_an_id_has_a_row_from_the_pass_on_in_which_it_was_seen_often_enough(dataset: Dataset) -> None:
    trainer = trainer_of(dataset)
    codes, keys = dataset.ids.ids["item_id"], dataset.ids.keys["item"]
    seen = np.zeros(len(keys), int)
    for rows, ends in passes(dataset):
        before = seen >= 3
        np.add.at(seen, codes[rows], 1)
        part = trainer.learn(rows, ends).tables["item"]
        fresh = keys[(seen >= 3) & ~before & (keys != MISSING_KEY)]
        assert np.isin(fresh, part.keys).all()
        assert np.isin(part.keys, keys[seen >= 3]).all()
        assert set(trainer.checkpoint({}).tables["item"].keys.tolist()) == set(keys[seen >= 3].tolist())
    assert trainer.most_rows["item"] == (seen >= 3).sum() < len(keys)


def test_counts_and_scores_are_those_of_a_plain_loop(dataset: Dataset) -> None:
    trainer = trainer_of(dataset)
    positive = dataset.labels[:, dataset.schema.tasks.index("like")] > 0
    codes, keys = dataset.ids.ids["user_id"], dataset.ids.keys["user"]
    scores = dict.fromkeys(range(len(keys)), 0.0)
    before = None
    for rows, ends in passes(dataset):
        number = ends // (12 * 3_600_000)
        part = trainer.learn(rows, ends).tables["user"]
        hits, others = dict.fromkeys(scores, 0), dict.fromkeys(scores, 0)
        for row in rows:
            (hits if positive[row] else others)[int(codes[row])] += 1
        kept = 1.0 if before is None else 0.8 ** (number - before)  # two passes of 6 hours are an interval
        before = number
        for code in scores:
            scores[code] = kept * scores[code] + 0.2 * (2.0 * hits[code] + others[code])
        touched = np.searchsorted(keys, part.keys).tolist()
        np.testing.assert_array_equal(part.positives, [hits[code] for code in touched])
        np.testing.assert_array_equal(part.negatives, [others[code] for code in touched])
    table = trainer.checkpoint({}).tables["user"]
    held = np.searchsorted(keys, table.keys).tolist()
    np.testing.assert_allclose(table.scores, [scores[code] for code in held], rtol=1e-6)


def test_the_same_seed_learns_the_same(dataset: Dataset) -> None:
    one, same, other = (trainer_of(dataset, seed) for seed in (1, 1, 2))
    rows, ends = passes(dataset)[0]
    results = [trainer.learn(rows, ends) for trainer in (one, same, other)]
    assert results[0].loss == results[1].loss != results[2].loss
    keys = results[0].tables["user"].keys
    np.testing.assert_array_equal(one.rows("user", keys), same.rows("user", keys))


def test_rows_are_of_ids_that_have_one(dataset: Dataset) -> None:
    trainer = trainer_of(dataset)
    trainer.learn(*passes(dataset)[0])
    table = trainer.checkpoint({}).tables["item"]
    picked = table.keys[[3, 0, 3]]
    np.testing.assert_array_equal(trainer.rows("item", picked), table.rows[[3, 0, 3]])
    lacking = next(key for key in dataset.ids.keys["item"] if key not in table.keys)
    with pytest.raises(SchemaError, match=f"table item: expected keys with a row of their own, got {lacking}"):
        trainer.rows("item", np.array([table.keys[0], lacking]))


def test_a_pass_without_exposures_changes_nothing(dataset: Dataset) -> None:
    trainer = trainer_of(dataset)
    rows, ends = passes(dataset)[0]
    before = trainer.learn(rows, ends)
    after = trainer.learn(rows[:0], ends + HOUR_MS)
    assert after.tables == {}
    np.testing.assert_array_equal(after.dense["towers.0.w"], before.dense["towers.0.w"])


def test_exposures_out_of_time_are_refused(dataset: Dataset) -> None:
    trainer = trainer_of(dataset)
    (first, ends), (second, second_ends) = passes(dataset)[:2]
    with pytest.raises(SchemaError, match="pass 0: expected exposures from None to before"):
        trainer.learn(second, ends)
    trainer.learn(first, ends)
    with pytest.raises(SchemaError, match=f"pass 1: expected exposures from {ends} to before {second_ends}, got"):
        trainer.learn(np.concatenate([first[-1:], second]), second_ends)
