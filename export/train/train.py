"""Training of one model: AdaGrad for embedding rows, Adam for the rest, a validation day that says when to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.errors import PepnetError, SchemaError
from pepnet_infer.export.data.dataset import Dataset
from pepnet_infer.export.model.network import build_network, dense_state
from pepnet_infer.export.model.pepnet import Network
from pepnet_infer.export.run_config import ScoreConfig, TrainConfig
from pepnet_infer.export.train.embedding import Embeddings
from pepnet_infer.export.train.metrics import auc
from pepnet_infer.schema.network_config import ModelConfig
from pepnet_infer.schema.row_batch import RowBatch

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
#: Told after every batch: (phase, epoch, batches done, batches of the epoch, mean loss so far).
Progress = Callable[[str, int, int, int, float], None]

_EVAL_BATCH = 4096


@dataclass(frozen=True)
class Trained:
    """One trained model and how it came to be."""

    config: ModelConfig
    network: Network
    embeddings: Embeddings
    epochs: int  # what the final model was trained for
    history: tuple[Mapping[str, float], ...]  # per epoch of the choosing phase: loss, validation
    seconds: float
    test_scores: Scores  # [len(dataset.test), T]


def train(
    dataset: Dataset, config: ModelConfig, settings: TrainConfig, seed: int, progress: Progress | None = None
) -> Trained:
    """Trains one model of `config` on `dataset`.

    With a validation day: fits on the days before it, stops after `patience` epochs without a better mean AUC there,
    and, with `refit`, trains anew on all days before the test days for as many epochs as were best. The test days are
    scored once, at the end. Raises PepnetError when the loss is no number any more.
    """
    begin = time.perf_counter()
    report = progress or (lambda *_: None)
    if len(dataset.validation) == 0:
        run = Run(dataset, config, settings, seed, dataset.train)
        history = [{"loss": run.epoch("train", n, report)} for n in range(settings.epochs)]
        return run.finish(settings.epochs, history, begin)
    run = Run(dataset, config, settings, seed, dataset.fit)
    best_epochs, best, history, kept = 0, -np.inf, [], run.weights()
    for epoch in range(settings.epochs):
        loss = run.epoch("choose", epoch, report)
        value = selection_metric(dataset, settings, run.scores(dataset.validation))
        history.append({"loss": loss, "validation": value})
        if value > best:
            best, best_epochs = value, epoch + 1
            kept = [weight.clone() for weight in run.weights()]
        elif epoch + 1 - best_epochs >= settings.patience:
            break
    if not settings.refit:
        for weight, of_best in zip(run.weights(), kept, strict=True):
            weight.copy_(of_best)
        return run.finish(best_epochs, history, begin)
    run = Run(dataset, config, settings, seed, dataset.train)
    for epoch in range(best_epochs):
        run.epoch("refit", epoch, report)
    return run.finish(best_epochs, history, begin)


def selection_metric(dataset: Dataset, settings: TrainConfig, scores: Scores) -> float:
    """Returns the mean AUC on the validation day over `settings.select_by`, or over every task stable there."""
    labels = dataset.labels[dataset.validation]
    tasks = dataset.schema.tasks
    chosen = [t for t in range(len(tasks)) if not settings.select_by or tasks[t] in settings.select_by]
    if not settings.select_by:
        rarer = np.minimum(labels.sum(0), len(labels) - labels.sum(0))
        chosen = [t for t in chosen if rarer[t] >= settings.min_positives] or [int(rarer.argmax())]
    values = [auc(labels[:, t], scores[:, t]) for t in chosen]
    if not np.isfinite(values).all():
        name = tasks[chosen[int(np.argmin(np.isfinite(values)))]]
        raise SchemaError(f"validation day: expected positives and negatives of task {name!r}, got one of them only")
    return float(np.mean(values))


class Run:
    """A model being trained on `rows`. With `grows`, see `Embeddings`."""

    def __init__(
        self,
        dataset: Dataset,
        config: ModelConfig,
        settings: TrainConfig,
        seed: int,
        rows: Rows,
        grows: bool = False,
    ) -> None:
        torch.manual_seed(seed)
        self._dataset, self._config, self._settings, self._rows = dataset, config, settings, rows
        known = dataset.ids.known(rows, settings.min_count)
        self.embeddings = Embeddings(dataset.schema, dataset.ids, dataset.dense, known, settings, seed, grows)
        self.network = build_network(config, len(dataset.schema.tasks))
        self._adam = torch.optim.Adam(
            self.network.parameters(), lr=settings.lr_dense, weight_decay=settings.l2_dense, fused=True
        )
        self._shuffle = np.random.default_rng(seed)
        self._labels = torch.from_numpy(dataset.labels)
        self._weights = torch.tensor([settings.loss_weights.get(t, 1.0) for t in dataset.schema.tasks])

    def epoch(self, phase: str, number: int, progress: Progress, rows: Rows | None = None) -> float:
        """Trains on every row once, or on these, in random order. Returns the mean loss of its batches."""
        self.network.train()
        order = self._shuffle.permutation(self._rows if rows is None else rows)
        size = self._settings.batch
        batches = -(-len(order) // size)
        total = 0.0
        for n in range(batches):
            batch = order[n * size : (n + 1) * size]
            inputs = self.embeddings.inputs(batch, training=True)
            if self._settings.dropout:
                drop = torch.nn.functional.dropout
                inputs = {name: drop(x, self._settings.dropout) for name, x in inputs.items()}
            logits = self.network.logits(inputs["general"], inputs["domain"], inputs["prior"])
            # The sum over tasks of the mean over rows.
            losses = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, self._labels[batch], reduction="none"
            ).mean(0)
            loss = (losses * self._weights).sum()
            self._adam.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            self._adam.step()
            self.embeddings.step()
            total += float(loss.detach())
            progress(phase, number, n + 1, batches, total / (n + 1))
        if not math.isfinite(total):
            raise PepnetError(
                f"{phase}, epoch {number + 1}: expected a finite loss, got {total}: lower the learning rates"
            )
        return total / batches

    @torch.no_grad()
    def scores(self, rows: Rows) -> Scores:
        """Returns float32 [len(rows), T]."""
        self.network.eval()
        parts = []
        for at in range(0, len(rows), _EVAL_BATCH):
            inputs = self.embeddings.inputs(rows[at : at + _EVAL_BATCH])
            parts.append(self.network(inputs["general"], inputs["domain"], inputs["prior"]).numpy())
        return np.concatenate(parts) if parts else np.empty((0, len(self._dataset.schema.tasks)), np.float32)

    def weights(self) -> list[torch.Tensor]:
        """Returns the tensors that are trained, themselves."""
        return [*self.network.state_dict().values(), *self.embeddings.weights()]

    def finish(self, epochs: int, history: list[dict[str, float]], begin: float) -> Trained:
        """Scores the test days and returns the model."""
        scores = self.scores(self._dataset.test)
        seconds = time.perf_counter() - begin
        return Trained(self._config, self.network, self.embeddings, epochs, tuple(history), seconds, scores)


def to_checkpoint(dataset: Dataset, trained: Trained, scoring: ScoreConfig, meta: Mapping[str, Any]) -> Checkpoint:
    """Returns the checkpoint of `trained`. GSET scores are as of the newest row before the test days."""
    positive = dataset.positive(scoring)[dataset.train]
    seconds = dataset.times[dataset.train] / 1000.0
    weights = scoring.weights(seconds, positive, seconds.max(initial=0.0))
    tables = [table.name for table in dataset.schema.tables]
    scores = {name: dataset.ids.sums(name, dataset.train, weights) for name in tables}
    return checkpoint_of(dataset, trained.config, trained.network, trained.embeddings, scores, meta)


def checkpoint_of(
    dataset: Dataset,
    config: ModelConfig,
    network: torch.nn.Module,
    embeddings: Embeddings,
    scores: Mapping[str, npt.NDArray[np.float64]],
    meta: Mapping[str, Any],
) -> Checkpoint:
    """Returns the checkpoint of a model. scores: table → GSET score of each of its codes."""
    tables = {}
    for name, by_code in scores.items():
        keys, rows, default = embeddings.table(name)
        codes = np.searchsorted(dataset.ids.keys[name], keys)
        tables[name] = RowBatch.of(rows, keys=keys, scores=by_code[codes].astype(np.float32), default=default)
    dense = dense_state(network)
    return Checkpoint(dataset.schema, config, tables, dict(dataset.sides), dense, dict(meta), dataset.ranges)
