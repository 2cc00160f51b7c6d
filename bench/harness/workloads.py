"""What the peers are asked to score: batches of dense inputs, and whole requests from a bundle's schema and tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from pepnet_infer.bench.harness.machine import last_level_cache
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.schema.feature_schema import FieldSpec
from pepnet_infer.schema.ids import MAX_ID
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.schema.network_config import InputWidths

#: Exponent of the Zipf law that ids are drawn by; the hottest ids are those with the highest GSET score.
ZIPF = 1.05
_MOST_BYTES, _MOST_ROWS = 512 << 20, 1 << 16
_LONGEST_BAG = 30
_MONDAY_MS = 1_650_844_800_000  # times are drawn from the week that begins on 25 April 2022, UTC

Ids = npt.NDArray[np.uint64]
Column = npt.NDArray[Any] | tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | list[str]


def rows_beyond_caches(widths: InputWidths, largest_batch: int) -> int:
    """Returns how many rows of dense inputs are twice the last-level cache, and at least two of the largest batch.

    65536 at most: the rows of a model so narrow that these fit a cache are no part of its cost.
    """
    row_bytes = 4 * (widths.general + widths.domain + widths.prior)
    rows = min(2 * last_level_cache(), _MOST_BYTES) // row_bytes
    return max(min(rows, _MOST_ROWS), 2 * largest_batch)


def batches(inputs: Inputs, size: int) -> list[Inputs]:
    """Returns the whole batches of `size` rows in `inputs`, as views."""
    spans = (slice(start, start + size) for start in range(0, inputs.num_rows - size + 1, size))
    return [inputs.rows(span) for span in spans]


@dataclass(frozen=True)
class Request:
    """One user who is shown N candidates: the arguments of `Engine.rank`, and the same as a batch of N rows."""

    user: dict[str, object]
    items: dict[str, Column]
    domain: object
    context: dict[str, object]
    rows: dict[str, Column]


class Traffic:
    """Draws what a bundle's engine can score: columns of known ids, times, bags and dense values, and requests.

    Ids follow a Zipf law. A field whose strings are hashed gets integers in their stead, and the texts of a bag that is
    split at a separator are decimal: hashed, such texts meet no row of the table and get its default row.
    """

    def __init__(self, bundle: Bundle, seed: int = 0) -> None:
        self._schema = bundle.schema
        self._rng = np.random.default_rng(seed)
        self._sides = {name: side.ids for name, side in bundle.sides().items()}
        self._tables = {name: _ids_by_heat(path) for name, path in bundle.table_paths.items()}

    def columns(self, rows: int) -> dict[str, Column]:
        """Returns a valid batch: every column of the schema as a NumPy array, a bag as (values, offsets)."""
        return {name: self._column(name, rows) for name in self._schema.columns}

    def request(self, candidates: int) -> Request:
        """Returns a request.

        A column is the user's (the context's, the domain's) when every field it decides, by itself or through a join,
        is. A page's own figures stand with the context.
        """
        domain, once = self._schema.domain_column, self.columns(1)
        request = Request({}, {}, _value(once[domain]), {}, self.columns(candidates))
        for name, column in once.items():
            sides = self._sides_of(name)
            if name != domain and (len(sides) > 1 or not sides <= {"user", "context", "domain"}):
                request.items[name] = request.rows[name]
                continue
            request.rows[name] = _repeated(column, candidates)
            if name != domain:
                (request.user if sides == {"user"} else request.context)[name] = _value(column)
        return request

    def _sides_of(self, name: str) -> set[str]:
        joins = {j.name for j in self._schema.joins if j.column == name}
        return {f.side for f in self._schema.fields if (f.column == name if f.join is None else f.join in joins)}

    def _column(self, name: str, rows: int) -> Column:
        schema = self._schema
        if name == schema.domain_column:
            return np.asarray(schema.domains)[self._rng.integers(0, len(schema.domains), rows)]
        fields = [f for f in schema.fields if f.join is None and f.column == name]
        sides = [self._sides[j.name] for j in schema.joins if j.column == name and j.name in self._sides]
        ids = [f for f in fields if f.kind != "dense" and f.transform.op == "none"]
        if ids and ids[0].kind == "bag":
            return self._bag(ids[0], rows)
        if ids or sides:
            known = [self._tables[f.table or ""] for f in ids[:1]] + sides
            common = reduce(lambda first, other: first[np.isin(first, other)], known)  # in the order of the first
            return self._zipf(common if common.size else known[0], rows)
        return self._numbers(fields[0], rows)

    def _zipf(self, ids: Ids, count: int) -> npt.NDArray[np.int64]:
        if ids.size == 0:
            return self._rng.integers(0, 1 << 40, count)  # an empty table knows no id: any will do
        weights = np.arange(1, ids.size + 1, dtype=np.float64) ** -ZIPF
        return self._rng.choice(ids, count, p=weights / weights.sum()).astype(np.int64)

    def _bag(self, spec: FieldSpec, rows: int) -> Column:
        lengths = self._rng.integers(0, min(spec.max_len or _LONGEST_BAG, _LONGEST_BAG) + 1, rows)
        offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
        values = self._zipf(self._tables[spec.table or ""], int(offsets[-1]))
        if spec.separator is None:
            return values, offsets
        return [spec.separator.join(map(str, values[a:b].tolist())) for a, b in pairwise(offsets)]

    def _numbers(self, spec: FieldSpec, rows: int) -> npt.NDArray[Any]:
        if spec.transform.op in ("hour", "weekday"):
            return _MONDAY_MS + self._rng.integers(0, 7 * 86_400_000, rows)
        if spec.transform.op == "bucketize":
            low, high = spec.transform.boundaries[0], spec.transform.boundaries[-1]
            margin = max(1.0, 0.1 * (high - low))
            return self._rng.uniform(low - margin, high + margin, rows)
        values = (spec.mean or 0.0) + (1.0 if spec.std is None else spec.std) * self._rng.standard_normal(rows)
        return np.copysign(np.expm1(np.abs(values)), values) if spec.transform.op == "log1p" else values


def _value(column: Column) -> object:
    """The only row of a column, as `Engine.rank` takes it."""
    return column[0].tolist() if isinstance(column, tuple) else np.asarray(column).tolist()[0]


def _repeated(column: Column, rows: int) -> Column:
    """The only row of a column, `rows` times."""
    if isinstance(column, tuple):
        return np.tile(column[0], rows), np.arange(rows + 1, dtype=np.int64) * len(column[0])
    return column * rows if isinstance(column, list) else np.repeat(column, rows)


def _ids_by_heat(path: Path) -> Ids:
    with safe_open(path, framework="numpy") as file:  # rows stay on disk
        keys, scores = file.get_tensor("keys"), file.get_tensor("scores")
    ids: Ids = keys[np.argsort(-scores, kind="stable")] & np.uint64(MAX_ID - 1)
    return ids
