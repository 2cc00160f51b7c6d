"""Online training: passes over a log in time order, and the rows and weights that each pass changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.errors import SchemaError
from pepnet_infer.export.data.codes import Codes
from pepnet_infer.export.data.dataset import Dataset
from pepnet_infer.export.model.network import dense_state
from pepnet_infer.export.run_config import TrainConfig
from pepnet_infer.export.train.occurrences import sums_by_code
from pepnet_infer.export.train.train import Run
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.network_config import ModelConfig
from pepnet_infer.schema.row_batch import RowBatch

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_HOUR_MS = 3_600_000


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
        schema = dataset.schema
        self._run = Run(dataset, config, settings, seed, np.arange(len(dataset.times)), grows=True)
        self._known = self._run.embeddings.known
        self._counts = {t.name: np.zeros(len(dataset.ids.keys[t.name]), np.int64) for t in schema.tables}
        self._scores = {name: np.zeros(len(counts)) for name, counts in self._counts.items()}
        positive = schema.tasks.index(settings.gset.positive or schema.tasks[0])
        self._positive = dataset.labels[:, positive] > 0.5
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
        for name, counts in self._counts.items():
            before = counts[self._known[name]]
            counts += self._dataset.ids.counts(self._dataset.schema, name, rows)
            least = self.settings.min_count
            fresh: Codes = self._known[name][(before < least) & (counts[self._known[name]] >= least)]
            self._run.embeddings.admit(name, fresh)
        loss = self._run.epoch("pass", self.passes, lambda *_: None, rows) if len(rows) else 0.0
        seen = {name: self._seen(name, rows, ends) for name in self._counts}
        tables = {
            name: LearntTable(
                part.keys,
                seen[name][0][part.codes],
                seen[name][1][part.codes],
                part.default,
            )
            for name, part in self._run.embeddings.touched().items()
        }
        self._ends = ends
        self.passes += 1
        return Learnt(loss, tables, dense_state(self._run.network))

    def rows(self, table: str, keys: Keys) -> Floats:
        """Returns rows as they are now, float32 [n, dim]. Raises SchemaError for keys that have none."""
        return self._run.embeddings.rows(table, keys)

    def checkpoint(self, meta: Mapping[str, Any]) -> Checkpoint:
        """Returns the model as it is now."""
        dataset = self._dataset
        tables = {}
        for spec in dataset.schema.tables:
            keys, rows, default = self._run.embeddings.table(spec.name)
            codes = np.searchsorted(dataset.ids.keys[spec.name], keys)
            tables[spec.name] = RowBatch.of(
                rows, keys=keys, scores=self._scores[spec.name][codes].astype(np.float32), default=default
            )
        dense = dense_state(self._run.network)
        return Checkpoint(dataset.schema, self.config, tables, dict(dataset.sides), dense, dict(meta), dataset.ranges)

    def _seen(self, table: str, rows: Rows, ends: int) -> tuple[Rows, Rows]:
        """Returns positive and other counts by code, and brings the scores to the end of the pass."""
        ids, bags = self._dataset.ids.of_table(self._dataset.schema, table, rows)
        positive = self._positive[rows].astype(np.float64)
        size = len(self._counts[table])
        counted = [
            sums_by_code(size, weights, ids, [(bag.codes, bag.offsets) for bag in bags]).astype(np.int64)
            for weights in (positive, 1.0 - positive)
        ]
        gset = self.settings.gset
        scores = self._scores[table]
        if self._ends is not None:
            scores[:] = gset.decayed(scores, gset.interval_of(ends / 1000) - gset.interval_of(self._ends / 1000))
        scores += gset.gain(counted[0], counted[1])
        return counted[0], counted[1]
