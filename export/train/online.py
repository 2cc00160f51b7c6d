"""Online training: passes over a log in time order, and the rows and weights that each pass changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.errors import SchemaError
from pepnet_infer.export.data.dataset import Dataset
from pepnet_infer.export.model.network import dense_state
from pepnet_infer.export.run_config import TrainConfig
from pepnet_infer.export.train.train import Run, checkpoint_of
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.network_config import ModelConfig

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LearntTable:
    """The ids of one table that a pass touched, n of them, in ascending order."""

    keys: Keys  # [n]
    positives: npt.NDArray[np.int64]  # [n], how often positive exposures of the pass contained the id
    negatives: npt.NDArray[np.int64]  # [n], and others
    default: Floats | None  # [dim], where the pass changed it


@dataclass(frozen=True)
class Learnt:
    """What one pass changed."""

    loss: float
    tables: Mapping[str, LearntTable]
    dense: Mapping[str, Floats]


class OnlineTrainer:
    """A model that learns each exposure once, in passes over a log in time order.

    An id gets a row of its own in the pass in which it has been seen `settings.min_count` times, as a copy of the
    default row that it had trained until then. Scores are `settings.gset`'s; the exposures of a pass count in the
    interval in which the pass ends.
    """

    def __init__(self, dataset: Dataset, config: ModelConfig, settings: TrainConfig, seed: int) -> None:
        """The dataset's rows are all that will come; ids that never reach `min_count` are given no memory."""
        self._dataset, self.config, self.settings = dataset, config, settings
        self._run = Run(dataset, config, settings, seed, np.arange(len(dataset.times)), grows=True)
        self._known = self._run.embeddings.known
        self._counts = {t.name: np.zeros(len(dataset.ids.keys[t.name]), np.int64) for t in dataset.schema.tables}
        self._scores = {name: np.zeros(len(counts)) for name, counts in self._counts.items()}
        self._positive = dataset.positive(settings.gset)
        self._ends: int | None = None  # unix milliseconds
        self.passes = 0

    @property
    def most_rows(self) -> dict[str, int]:
        """How many ids of each table have a row once the whole log has been learnt."""
        return {name: len(codes) for name, codes in self._known.items()}

    def learn(self, rows: Rows, ends: int) -> Learnt:
        """Trains on each of `rows` once, in random order: the exposures up to the time `ends`, unix milliseconds.

        A pass without exposures changes scores only. Raises SchemaError for exposures that are not between the end of
        the last pass and this one, PepnetError when the loss is no number any more.
        """
        since = self._ends
        times = self._dataset.times[rows]
        if len(rows) and (times.max() >= ends or (since is not None and times.min() < since)):
            got = f"{times.min()} to {times.max()}"
            raise SchemaError(f"pass {self.passes}: expected exposures from {since} to before {ends}, got {got}")
        seen: dict[str, tuple[Rows, Rows]] = {}
        for name, counts in self._counts.items():
            plus, minus = seen[name] = self._seen(name, rows, ends)
            known, before, least = self._known[name], counts.copy(), self.settings.min_count
            counts += plus + minus
            self._run.embeddings.admit(name, known[(before[known] < least) & (counts[known] >= least)])
        loss = self._run.epoch("pass", self.passes, lambda *_: None, rows) if len(rows) else 0.0
        tables = {}
        for name, (codes, default) in self._run.embeddings.touched().items():
            plus, minus = seen[name]
            tables[name] = LearntTable(self._dataset.ids.keys[name][codes], plus[codes], minus[codes], default)
        self._ends = ends
        self.passes += 1
        return Learnt(loss, tables, dense_state(self._run.network))

    def rows(self, table: str, keys: Keys) -> Floats:
        """Returns rows as they are now, float32 [n, dim]. Raises SchemaError for keys that have none."""
        return self._run.embeddings.rows(table, keys)

    def checkpoint(self, meta: Mapping[str, Any]) -> Checkpoint:
        """Returns the model as it is now."""
        run = self._run
        return checkpoint_of(self._dataset, self.config, run.network, run.embeddings, self._scores, meta)

    def _seen(self, table: str, rows: Rows, ends: int) -> tuple[Rows, Rows]:
        """Returns positive and other counts by code, and brings the scores to the end of the pass."""
        positive = self._positive[rows].astype(np.float64)
        plus, minus = (
            self._dataset.ids.sums(table, rows, weights).astype(np.int64) for weights in (positive, 1.0 - positive)
        )
        gset = self.settings.gset
        scores = self._scores[table]
        if self._ends is not None:
            scores[:] = gset.decayed(scores, gset.interval_of(ends / 1000) - gset.interval_of(self._ends / 1000))
        scores += gset.gain(plus, minus)
        return plus, minus
