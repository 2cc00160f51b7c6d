"""A trained model as a checkpoint: rows with their GSET scores, the network's weights, the fitted schema."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch

from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.errors import SchemaError
from pepnet_infer.export.data.dataset import Dataset
from pepnet_infer.export.model.network import dense_state
from pepnet_infer.export.run_config import ScoreConfig
from pepnet_infer.export.train.embedding import Embeddings
from pepnet_infer.export.train.train import Trained
from pepnet_infer.schema.network_config import ModelConfig
from pepnet_infer.schema.row_batch import RowBatch


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


def write_test_rows(dataset: Dataset, path: Path) -> None:
    """Writes the raw rows of the test days to parquet, labels included. Raises SchemaError if that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(dataset.log.take(dataset.test), path)
    except OSError as error:
        raise SchemaError(f"{path}: cannot write the test rows: {error.strerror}") from error
