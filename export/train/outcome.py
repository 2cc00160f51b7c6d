"""A trained model as a checkpoint: rows with their GSET scores, the network's weights, the fitted schema."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.errors import SchemaError
from pepnet_infer.export.data.dataset import Dataset
from pepnet_infer.export.model.network import dense_state
from pepnet_infer.export.run_config import ScoreConfig
from pepnet_infer.export.train.occurrences import sums_by_code
from pepnet_infer.export.train.train import Trained
from pepnet_infer.schema.row_batch import RowBatch


def to_checkpoint(dataset: Dataset, trained: Trained, scoring: ScoreConfig, meta: Mapping[str, Any]) -> Checkpoint:
    """Returns the checkpoint of `trained`. GSET scores are as of the newest row before the test days."""
    schema = dataset.schema
    positive = schema.tasks.index(scoring.positive or schema.tasks[0])
    seconds = dataset.times[dataset.train] / 1000.0
    weights = scoring.weights(seconds, dataset.labels[dataset.train, positive] > 0.5, seconds.max(initial=0.0))
    tables = {}
    for table in schema.tables:
        ids, bags = dataset.ids.of_table(schema, table.name, dataset.train)
        scores = sums_by_code(len(dataset.ids.keys[table.name]), weights, ids, [(b.codes, b.offsets) for b in bags])
        codes = trained.embeddings.known[table.name]
        keys, rows, default = trained.embeddings.table(table.name)
        tables[table.name] = RowBatch.of(rows, keys=keys, scores=scores[codes].astype(np.float32), default=default)
    dense = dense_state(trained.network)
    return Checkpoint(schema, trained.config, tables, dict(dataset.sides), dense, dict(meta), dataset.ranges)


def write_test_rows(dataset: Dataset, path: Path) -> None:
    """Writes the raw rows of the test days to parquet, labels included. Raises SchemaError if that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(dataset.log.take(dataset.test), path)
    except OSError as error:
        raise SchemaError(f"{path}: cannot write the test rows: {error.strerror}") from error
