"""A model whose scores say which version they are of: what a version scores follows from its number, by integers.

Every delta changes the rows whose ids are in its group, some of them to deletions, every default row and all weights.
All numbers in rows and weights are small integers until the last layer scales them, so that float32 has no rounding in
any order of adding: a logit is (m − CENTRE) / SCALE for an integer m. m tells apart versions of the weights, of a row
and of a default row, and any two that are mixed.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sync_deltas import delta_rows

from pepnet_infer import _kernels
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.network.network import Network
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import make_keys
from pepnet_infer.schema.network_config import InputWidths, ModelConfig
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.sync.delta import DeltaHead, write_delta

Integers = npt.NDArray[np.int64]
FIRST = 7  # the bundle's model version; step s is version FIRST + s
GROUPS = 10  # a step changes every tenth id
DIM = 4
MOST, CENTRE, SCALE = 2048, 1024, 128.0

SCHEMA = FeatureSchema.from_json(
    {
        "name": "encoded",
        "tables": {"user": {"dim": DIM}, "video": {"dim": DIM}},
        "fields": [
            {"name": "user_id", "kind": "id", "side": "user", "table": "user"},
            {"name": "video_id", "kind": "id", "side": "item", "table": "video"},
            {"name": "watched", "kind": "bag", "side": "user", "table": "video", "pooling": "sum", "max_len": 3},
        ],
        "domain": {"column": "tab", "values": [0]},
        "tasks": {"one": "one", "two": "two"},
    }
)
CONFIG = ModelConfig(InputWidths(**SCHEMA.widths), layers=(3,), backbone="towers", use_epnet=False, use_ppnet=False)


class Encoded:
    """Steps and what they score. `ids` of each of the two tables are known, from 0."""

    def __init__(self, ids: int) -> None:
        self.ids = ids
        self._scores = _scores_of_integers()

    def checkpoint(self) -> Checkpoint:
        """Returns step 0."""
        ids = np.arange(self.ids)
        rows, _ = self._rows(ids, np.zeros_like(ids))
        tables = {
            spec.name: RowBatch.of(
                rows, keys=make_keys(spec.number, ids.astype(np.uint64)), scores=_uniform(ids), default=_default(0)
            )
            for spec in SCHEMA.tables
        }
        return Checkpoint(SCHEMA, CONFIG, tables, {}, _weights(0), {})

    def write(self, step: int, folder: Path) -> Path:
        """Writes the delta from step − 1 to `step`, with `ids` / GROUPS rows of each table, and returns its path."""
        ids = np.arange(step % GROUPS, self.ids, GROUPS)
        values, gone = self._rows(ids, np.full_like(ids, step))
        version = FIRST + step
        rows = {
            spec.name: delta_rows(
                make_keys(spec.number, ids.astype(np.uint64)),
                np.where(gone[:, None], np.float32(0), values),
                np.full(len(ids), version, np.uint64),
                _uniform(ids),
                np.full(len(ids), np.inf),
                gone.astype(np.uint8),
                _default(step),
            )
            for spec in SCHEMA.tables
        }
        head = DeltaHead(version - 1, version, step, time.time(), SCHEMA.hash)
        return write_delta(folder / str(version), head, rows, _weights(step))

    def batch(self, rows: int, random: np.random.Generator) -> dict[str, Any]:
        """Draws a batch; some of its ids are unknown."""
        lengths = random.integers(1, 4, rows)
        offsets = np.concatenate([[0], lengths.cumsum()])
        most = self.ids + self.ids // 50
        return {
            "user_id": random.integers(0, most, rows),
            "video_id": random.integers(0, most, rows),
            "watched": (random.integers(0, most, int(offsets[-1])), offsets),
            "tab": np.zeros(rows, np.int64),
        }

    def expected(self, version: int, batch: dict[str, Any]) -> npt.NDArray[np.float32]:
        """Returns the scores [B, 2] of a version, to the bit."""
        step = version - FIRST
        values, offsets = batch["watched"]
        bags = np.add.reduceat(self._seen(values, step), offsets[:-1])
        seen = self._seen(batch["user_id"], step) + self._seen(batch["video_id"], step) + bags
        first, second, _ = _factors(step)
        common = first * seen[:, 0] + second * seen[:, 1] + seen[:, 2]
        m = np.stack([common + step % 509, common + step % 251], axis=1)
        return self._scores[m]

    def _seen(self, ids: Integers, step: int) -> Integers:
        """Returns what stands in the first columns of the rows of `ids` after a step."""
        changed = step - (step - ids) % GROUPS
        changed = np.where(changed < 1, 0, changed)
        rows, gone = self._rows(ids, changed)
        return np.where((gone | (ids >= self.ids))[:, None], _default(step), rows).astype(np.int64)

    @staticmethod
    def _rows(ids: Integers, steps: Integers) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Returns the rows of `ids` as changed by `steps`, one for each, and which of them the step deleted."""
        turn = steps // GROUPS
        rows = np.stack([turn % 61, (turn * 5 + ids) % 13, ids % 5, np.ones_like(ids)], axis=1)
        return rows.astype(np.float32), (steps > 0) & ((turn + ids // GROUPS) % 7 == 3)


def _factors(step: int) -> tuple[int, int, int]:
    """Returns what the weights of a step multiply the first two columns by, and a part of its bias."""
    return 1 + step % 3, 1 + step % 2, step % 17


def _weights(step: int) -> dict[str, npt.NDArray[np.float32]]:
    """Layer 0 sums each column over the fields, layer 1 adds these sums.

    One bias takes back what the other adds, so that tensors of two versions do not fit together.
    """
    first, second, last = _factors(step)
    fields = CONFIG.inputs.general // DIM
    into = np.tile(np.diag([first, 1, 1, 0])[:, :3], (fields, 1)).astype(np.float32)
    out = np.array([[1], [second], [1]], np.float32) / SCALE
    bias = np.array([step % 509, step % 251], np.float32)[:, None] - last - CENTRE
    return {
        "experts.0.w": np.stack([into, into]),
        "experts.0.b": np.tile(np.array([0, 0, last], np.float32), (2, 1)),
        "experts.1.w": np.stack([out, out]),
        "experts.1.b": (bias / SCALE).astype(np.float32),
    }


def _default(step: int) -> npt.NDArray[np.float32]:
    return np.array([step % 59, step % 11, 5, 1], np.float32)


def _uniform(ids: Integers) -> npt.NDArray[np.float32]:
    """A score for each id: what the cache keeps when it has no room for all."""
    return ((ids * 2654435761) % 1000 / 1000).astype(np.float32)


def _scores_of_integers() -> npt.NDArray[np.float32]:
    """Returns the score of every integer m, from a network that is nothing but the scale and the sigmoid."""
    widths = InputWidths(1, 0, 0)
    config = ModelConfig(widths, layers=(1,), backbone="towers", use_epnet=False, use_ppnet=False)
    weights = {
        "experts.0.w": np.ones((2, 1, 1), np.float32),
        "experts.0.b": np.zeros((2, 1), np.float32),
        "experts.1.w": np.full((2, 1, 1), 1 / SCALE, np.float32),
        "experts.1.b": np.full((2, 1), -CENTRE / SCALE, np.float32),
    }
    model = _kernels.DenseModel(weights, Network.derived(config, 2).to_native())
    integers = np.arange(MOST)
    nothing = np.empty((MOST, 0), np.float32)
    scores = model.run(integers.astype(np.float32)[:, None], nothing, nothing)[:, 0].copy()
    truth = 1 / (1 + np.exp(-(integers - CENTRE) / SCALE))
    np.testing.assert_allclose(scores, truth, rtol=2e-6)
    assert (np.diff(scores) > 0).all()  # the score says which integer
    return scores
