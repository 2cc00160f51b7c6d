"""The work of one lookup, and what does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pepnet_infer.schema.ids import make_keys

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]

#: Samples of a batch whose fields are looked up one after the other, for a destination with a column a field.
SAMPLES = 1024


@dataclass(frozen=True)
class Batch:
    """One call's ids, each in the form that one of the contenders takes, so that none has to convert."""

    positions: Positions  # [rows] in the table
    keys: Keys  # [rows]
    ids: tuple[int, ...] = ()  # [rows] the keys as Python integers; only where Python caches are measured

    @property
    def rows(self) -> int:
        """Ids in the batch."""
        return int(self.positions.size)


@dataclass(frozen=True)
class Workload:
    """A table and its keys, and batches of uniform random ids of it."""

    table: Floats  # [N, dim], row i belongs to keys[i]
    keys: Keys  # [N] distinct
    batches: Sequence[Batch]

    def expected(self, batch: Batch) -> Floats:
        """Returns the rows of the batch [rows, dim]."""
        rows: Floats = self.table[batch.positions]
        return rows


@dataclass(frozen=True)
class Part:
    """Ids [begin, end) of a batch go to the rows of `out`, [end - begin, dim] at any stride."""

    begin: int
    end: int
    out: Floats


Destination = Sequence[Part]


def contiguous(rows: int, dim: int) -> Destination:
    """Returns one array of all rows."""
    return [Part(0, rows, np.zeros((rows, dim), np.float32))]


def input_columns(rows: int, dim: int) -> Destination:
    """Returns columns of a model's input matrix: SAMPLES ids, a field's, go to `dim` columns, the next to the next.

    Raises ValueError when `rows` is not a multiple of SAMPLES.
    """
    if rows % SAMPLES:
        raise ValueError(f"rows: expected a multiple of {SAMPLES}, got {rows}")
    fields = rows // SAMPLES
    matrix = np.zeros((SAMPLES, fields * dim), np.float32)
    return [Part(f * SAMPLES, (f + 1) * SAMPLES, matrix[:, f * dim : (f + 1) * dim]) for f in range(fields)]


@dataclass(frozen=True)
class Contender:
    """A way to look up a batch. `call` returns the rows in parts, in the order of the ids, or raises."""

    name: str
    what: str
    call: Callable[[Batch], Sequence[Floats]]
    close: Callable[[], None] = lambda: None


def make_keys_of(rows: int, rng: np.random.Generator) -> Keys:
    """Returns `rows` distinct keys of table 1 with random 48-bit ids."""
    drawn = np.empty(0, np.uint64)
    while drawn.size < rows:
        drawn = np.unique(np.concatenate([drawn, rng.integers(0, 1 << 48, rows + rows // 8 + 16, dtype=np.uint64)]))
    rng.shuffle(drawn)
    return make_keys(1, drawn[:rows])


def make_batches(
    keys: Keys, resident: Positions, rows: int, number: int, rng: np.random.Generator, *, python: bool = False
) -> list[Batch]:
    """Returns `number` batches of `rows` ids drawn uniformly, with replacement, from the `resident` positions.

    `python`: with the keys as Python integers too.
    """
    batches = []
    for _ in range(number):
        positions = resident[rng.integers(0, resident.size, rows)]
        picked = keys[positions]
        batches.append(Batch(positions, picked, tuple(picked.tolist()) if python else ()))
    return batches
