"""Training: that it learns, stops, repeats itself, keeps off the test days, and leaves what is served."""

from __future__ import annotations

import dataclasses
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from msgspec import structs

from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.errors import PepnetError, SchemaError
from pepnet_infer.export.data.dataset import Dataset, build_dataset
from pepnet_infer.export.data.source import refuse_leakage
from pepnet_infer.export.data.synthetic import RATES, Synthetic, SyntheticConfig, synthetic_run
from pepnet_infer.export.model.network import build_network, load_dense
from pepnet_infer.export.run_config import Split, TrainConfig, model_config
from pepnet_infer.export.train import compare
from pepnet_infer.export.train import train as training
from pepnet_infer.export.train.compare import train_all, variants
from pepnet_infer.export.train.metrics import ALL, auc
from pepnet_infer.export.train.train import Trained, to_checkpoint, train
from pepnet_infer.rows.assemble import Assembler
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.feature_schema import JoinSpec

RUN = synthetic_run()
SMALL = SyntheticConfig(rows=3000, users=40, items=60, authors=10)
FLAGS = {"experts": 2, "layers": [16, 8], "towers": [8]}
SETTINGS = structs.replace(RUN.train, epochs=2, batch=256, min_positives=20, min_count=3)


pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return build_dataset(Synthetic(SMALL), RUN.schema, SETTINGS)


def run(data: Dataset, settings: TrainConfig = SETTINGS, seed: int = 0) -> Trained:
    return train(data, model_config(FLAGS, data.schema), settings, seed)


def same(a: Trained, b: Trained) -> bool:
    """Whether two models are equal to the bit."""
    weights = zip(a.network.parameters(), b.network.parameters(), strict=True)
    tables = [t.name for t in a.embeddings.schema.tables]
    rows = [(a.embeddings.table(name), b.embeddings.table(name)) for name in tables]
    return all(torch.equal(x, y) for x, y in weights) and all(
        x.shape == y.shape and (x == y).all() for one, other in rows for x, y in zip(one, other, strict=True)
    )


class Shifted(Synthetic):
    """Positions times `times`, and so far from 0 that float32 has no room for them."""

    def __init__(self, times: int) -> None:
        super().__init__(SMALL)
        self.times = times

    def interactions(self) -> pa.Table:
        log = super().interactions()
        positions = log["position"].to_numpy().astype(np.int64) * self.times + 20_240_425_001
        return log.set_column(log.column_names.index("position"), "position", pa.array(positions))


def test_large_values_are_normalised_as_small_ones_and_constants_are_zero(data: Dataset) -> None:
    shifted = build_dataset(Shifted(1), RUN.schema, SETTINGS).dense["position"]
    np.testing.assert_allclose(shifted, data.dense["position"], rtol=0, atol=1e-3)
    constant = build_dataset(Shifted(0), RUN.schema, SETTINGS).dense["position"]
    assert (constant == 0.0).all()


def test_it_learns_a_tiny_set_by_heart() -> None:
    config = SyntheticConfig(rows=300, users=150, items=150, authors=40)
    settings = structs.replace(SETTINGS, split=Split(test=5), epochs=60, batch=64, min_count=1, id_dropout=0.0)
    tiny = build_dataset(Synthetic(config), RUN.schema, settings)
    trained = run(tiny, settings)
    inputs = trained.embeddings.inputs(tiny.train)
    with torch.no_grad():
        scores = trained.network(inputs["general"], inputs["domain"], inputs["prior"]).numpy()
    assert min(auc(y, s) for y, s in zip(tiny.labels[tiny.train].T, scores.T, strict=True)) > 0.999
    losses = [epoch["loss"] for epoch in trained.history]
    assert losses[-1] < losses[0] / 10
    assert len(losses) == 60


def test_the_same_seed_gives_the_same_model(data: Dataset) -> None:
    a, b, c = run(data, seed=3), run(data, seed=3), run(data, seed=4)
    assert same(a, b)
    np.testing.assert_array_equal(a.test_scores, b.test_scores)
    assert not same(a, c)


@pytest.mark.parametrize(("patience", "seen", "best"), [(1, 3, 2), (2, 4, 2), (3, 5, 5)])
def test_the_validation_day_says_when_to_stop(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, patience: int, seen: int, best: int
) -> None:
    values = iter([0.6, 0.7, 0.65, 0.7, 0.8])
    monkeypatch.setattr(training, "selection_metric", lambda *_: next(values))
    settings = structs.replace(SETTINGS, epochs=5, patience=patience, refit=False)
    stopped = run(data, settings)
    assert len(stopped.history) == seen
    assert stopped.epochs == best
    # the weights are those of the best epoch, not of the last
    rising = iter(range(9))
    monkeypatch.setattr(training, "selection_metric", lambda *_: next(rising))
    assert same(stopped, run(data, structs.replace(settings, epochs=best)))


def test_refit_is_a_training_on_all_days_before_the_test(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.6, 0.7, 0.5])
    monkeypatch.setattr(training, "selection_metric", lambda *_: next(values))
    refitted = run(data, structs.replace(SETTINGS, epochs=5))
    assert refitted.epochs == 2
    plain = structs.replace(SETTINGS, split=Split(test=5), epochs=2)
    everything = build_dataset(Synthetic(SMALL), RUN.schema, plain)
    assert len(everything.fit) == len(data.train)
    assert same(refitted, run(everything, plain))


class _OtherTestDays(Synthetic):
    """The same traffic, but of the test day other labels, users, items and positions."""

    def interactions(self) -> pa.Table:
        log = super().interactions()
        test = log["day"].to_numpy() >= 5
        rng = np.random.default_rng(9)
        for name in (*RATES, "position", "user_id", "item_id"):
            values = log[name].to_numpy().copy()
            values[test] = rng.permutation(values[test]) if name not in RATES else 1 - values[test]
            log = log.set_column(log.column_names.index(name), name, pa.array(values))
        return log


def test_nothing_of_the_test_days_touches_training(data: Dataset) -> None:
    other = build_dataset(_OtherTestDays(SMALL), RUN.schema, SETTINGS)
    assert (other.labels[other.test] != data.labels[data.test]).all()
    assert other.schema == data.schema
    assert other.ranges == data.ranges
    a, b = run(data), run(other)
    assert same(a, b)
    assert a.history == b.history
    checkpoints = [to_checkpoint(d, t, SETTINGS.gset, {}) for d, t in ((data, a), (other, b))]
    for table in RUN.schema.tables:
        scores = [c.tables[table.name].scores for c in checkpoints]
        np.testing.assert_array_equal(scores[0], scores[1])
        assert (scores[0] > 0).all()


def test_what_is_served_is_what_was_trained(data: Dataset, tmp_path: Path) -> None:
    """Raw rows → encode → store → assembler → network, from the saved checkpoint alone."""
    trained = run(data, structs.replace(SETTINGS, min_count=40))
    to_checkpoint(data, trained, SETTINGS.gset, {"seed": 0}).save(tmp_path / "ckpt", reports={"report.json": b"{}"})
    saved = Checkpoint.load(tmp_path / "ckpt")
    assert saved.ranges == data.ranges
    assert saved.ranges.keys() == {spec.name for spec in data.schema.fields if spec.kind == "dense"}
    for name, (least, largest) in saved.ranges.items():
        values = data.dense[name][data.train]
        assert (least, largest) == (values.min(), values.max()), "of 3,000 rows none is one in ten thousand"
    paths = {t.name: tmp_path / "ckpt" / "tables" / f"{t.name}.safetensors" for t in saved.schema.tables}
    log = data.log.take(data.test)
    features = Encoder(saved.schema, saved.sides).encode(read_columns(log, saved.schema.columns))
    with MmapStore(paths) as store:
        served = Assembler(saved.schema, store).inputs(features)
    network = build_network(saved.config, len(saved.schema.tasks))
    load_dense(network, saved.dense)
    with torch.no_grad():
        tensors = [torch.from_numpy(x) for x in (served.general, served.domain, served.prior)]
        scores = network(*tensors).numpy()
    np.testing.assert_allclose(scores, trained.test_scores, atol=1e-6)
    assert sum(served.unknown.values()) > 0  # ids seen less than 40 times were among them


@pytest.mark.parametrize("column", ["click", "hate"])
@pytest.mark.parametrize("where", ["field", "domain", "join"])
def test_labels_are_refused_as_inputs(column: str, where: str) -> None:
    schema = RUN.schema
    if where == "field":
        leaking = structs.replace(schema.field_by_name["position"], column=column)
        fields = tuple(leaking if f.name == "position" else f for f in schema.fields)
        schema = dataclasses.replace(schema, fields=fields)
    elif where == "domain":
        schema = dataclasses.replace(schema, domain_column=column)
    else:
        schema = dataclasses.replace(schema, joins=(JoinSpec("items", column, "item_id", "items"),))
    with pytest.raises(SchemaError, match=f"reads column '{column}': expected a column known before the exposure"):
        refuse_leakage(schema, Synthetic(SMALL))


def test_a_loss_that_is_no_number_ends_training(data: Dataset) -> None:
    with (
        np.errstate(all="ignore"),
        pytest.raises(PepnetError, match=r"choose, epoch 1: expected a finite loss, got nan: lower the learning rates"),
    ):
        run(data, structs.replace(SETTINGS, lr_dense=1e20, lr_embedding=1e20))


def test_a_validation_day_without_positives_is_refused(data: Dataset) -> None:
    labels = data.labels.copy()
    labels[data.validation, 0] = 0.0
    blank = dataclasses.replace(data, labels=labels)
    with pytest.raises(SchemaError, match="expected positives and negatives of task 'click', got one of them only"):
        run(blank, structs.replace(SETTINGS, select_by=("click",)))


def test_days_without_rows_are_refused() -> None:
    settings = structs.replace(SETTINGS, split=Split(validation=4, test=99))
    with pytest.raises(SchemaError, match=r"expected rows to test on, got days 0 to 5"):
        build_dataset(Synthetic(SMALL), RUN.schema, settings)


def test_compare_trains_every_model_on_every_seed(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[str, int]] = []
    scores: list[weakref.ref[Any]] = []

    def train_and_note(*given: Any) -> Trained:
        trained = train(*given)
        scores.append(weakref.ref(trained.test_scores))
        return trained

    monkeypatch.setattr(compare, "train", train_and_note)

    def begin(name: str, seed: int) -> training.Progress:
        begun.append((name, seed))
        return lambda *_: None

    configs = variants(FLAGS, data, compare=True)
    settings = structs.replace(SETTINGS, epochs=1, seeds=2, seed=5, refit=False)
    outcomes, kept = train_all(data, configs, settings, begin)
    assert [ref() for ref in scores if ref() is not None] == [kept.test_scores]  # not those of all models
    names = ["pepnet", "pepnet w/o EPNet", "pepnet w/o PPNet", "deepfm", "dcnv2", "shared_bottom", "mmoe", "ple"]
    assert [o.name for o in outcomes] == names
    assert begun == [(name, seed) for name in names for seed in (5, 6)]
    assert (configs["pepnet w/o EPNet"].use_epnet, configs["pepnet w/o EPNet"].use_ppnet) == (False, True)
    assert same(kept, run(data, settings, seed=5))
    click = next(c for c in outcomes[0].cells if (c.domain, c.task) == (ALL, "click"))
    assert click.auc[0] == auc(data.labels[data.test, 0], kept.test_scores[:, 0])
    assert click.rows == len(data.test)


def test_cells_are_per_domain_and_say_what_is_not_stable(data: Dataset) -> None:
    settings = structs.replace(SETTINGS, epochs=1, seeds=1, refit=False, min_positives=40)
    (outcome,), kept = train_all(data, variants(FLAGS, data, compare=False), settings, lambda *_: lambda *_: None)
    pages = data.log["page"].to_numpy()[data.test]
    for cell in outcome.cells:
        inside = (pages == cell.domain) | (cell.domain == ALL)
        task = data.schema.tasks.index(cell.task)
        labels, scores = data.labels[data.test][inside, task], kept.test_scores[inside, task]
        assert (cell.rows, cell.positives) == (inside.sum(), labels.sum())
        assert cell.stable == (min(labels.sum(), (1 - labels).sum()) >= 40)
        assert cell.auc[0] == pytest.approx(auc(labels, scores), nan_ok=True)
    assert {cell.stable for cell in outcome.cells} == {True, False}
