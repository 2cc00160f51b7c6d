"""What the peers are asked to score: dense inputs from a seed, and whole requests from a bundle's schema and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from pepnet_infer.bench.harness.machine import last_level_cache
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.schema.feature_schema import FieldSpec, Transform
from pepnet_infer.schema.ids import split_keys
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
    rows = min(2 * last_level_cache(), _MOST_BYTES) // row_bytes(widths)
    return max(min(rows, _MOST_ROWS), 2 * largest_batch)


def row_bytes(widths: InputWidths) -> int:
    """Returns the bytes of one row of the three inputs."""
    return 4 * (widths.general + widths.domain + widths.prior)


def dense_rows(widths: InputWidths, rows: int, seed: int) -> Inputs:
    """Returns `rows` standard normal rows of the three inputs: what presets scale their weights for."""
    rng = np.random.default_rng(seed)

    def normal(width: int) -> npt.NDArray[np.float32]:
        return rng.standard_normal((rows, width), dtype=np.float32)

    return Inputs(normal(widths.general), normal(widths.domain), normal(widths.prior))


def batches(inputs: Inputs, size: int) -> list[Inputs]:
    """Returns the whole batches of `size` rows in `inputs`, as views."""
    spans = (slice(start, start + size) for start in range(0, inputs.num_rows - size + 1, size))
    return [inputs.rows(span) for span in spans]


class Traffic:
    """Draws requests that a bundle's engine can score: columns of known ids, times, bags and dense values.

    Ids follow a Zipf law; with `zipf` 0 all are equally likely. A field whose strings are hashed gets integers in
    their stead, and the texts of a bag that is split at a separator are decimal: hashed, such texts meet no row of the
    table and get its default row.
    """

    def __init__(self, bundle: Bundle, seed: int = 0, zipf: float = ZIPF) -> None:
        self._schema = bundle.schema
        self._exponent = zipf
        self._rng = np.random.default_rng(seed)
        self._sides = {name: side.ids for name, side in bundle.sides().items()}
        self._tables = {name: _ids_by_heat(path) for name, path in bundle.table_paths.items()}

    def columns(self, rows: int) -> dict[str, Column]:
        """Returns a valid batch: every column of the schema as a NumPy array, a bag as (values, offsets)."""
        return {name: self._column(name, rows) for name in self._schema.columns}

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
            return self._zipf(_common(known), rows)
        return self._numbers(fields[0], rows)

    def _zipf(self, ids: Ids, count: int) -> npt.NDArray[np.int64]:
        if ids.size == 0:
            return self._rng.integers(0, 1 << 40, count)  # an empty table knows no id: any will do
        weights = np.arange(1, ids.size + 1, dtype=np.float64) ** -self._exponent
        ranks = np.searchsorted(np.cumsum(weights / weights.sum()), self._rng.random(count))
        return ids[np.minimum(ranks, ids.size - 1)].astype(np.int64)

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
            return self._rng.uniform(*_around(spec.transform), rows)
        values = (spec.mean or 0.0) + (1.0 if spec.std is None else spec.std) * self._rng.standard_normal(rows)
        return np.copysign(np.expm1(np.abs(values)), values) if spec.transform.op == "log1p" else values


def slice_columns(columns: Mapping[str, Column], begin: int, end: int) -> dict[str, Column]:
    """Returns rows `begin` to `end` of a batch; arrays are views, offsets begin at 0 again."""

    def part(column: Column) -> Column:
        if not isinstance(column, tuple):
            return column[begin:end]
        values, offsets = column
        return values[offsets[begin] : offsets[end]], offsets[begin : end + 1] - offsets[begin]

    return {name: part(column) for name, column in columns.items()}


@dataclass(frozen=True)
class Request:
    """One user who is shown N candidates: the arguments of `Engine.rank`."""

    user: dict[str, object]
    items: dict[str, Column]
    domain: object
    context: dict[str, object]


def as_request(bundle: Bundle, columns: Mapping[str, Column]) -> Request:
    """Returns the rows of a batch as candidates of one request, whose user, context and domain are the first row's.

    A column is the user's (the context's, the domain's) when every field it decides, by itself or through a join, is.
    """
    schema = bundle.schema
    user: dict[str, object] = {}
    context: dict[str, object] = {}
    parts = {"user": user, "context": context, "domain": context}  # a page's own figures stand with the context
    items: dict[str, Column] = {}
    for name, column in columns.items():
        joins = {j.name for j in schema.joins if j.column == name}
        sides = {f.side for f in schema.fields if (f.column == name if f.join is None else f.join in joins)}
        if name == schema.domain_column:
            continue
        if len(sides) == 1 and (side := next(iter(sides))) in parts:
            parts[side][name] = _first(column)
        else:
            items[name] = column
    return Request(user, items, _first(columns[schema.domain_column]), context)


def as_rows(bundle: Bundle, request: Request, rows: int) -> dict[str, Column]:
    """Returns a request as a batch of `rows` rows, what it gives once repeated: the same scores, by `Engine.score`."""
    once = {**request.user, **request.context, bundle.schema.domain_column: request.domain}
    return {**{name: _repeated(value, rows) for name, value in once.items()}, **request.items}


def _repeated(value: object, rows: int) -> Column:
    if isinstance(value, list):  # a bag
        return np.tile(np.asarray(value, np.int64), rows), np.arange(rows + 1, dtype=np.int64) * len(value)
    return [value] * rows if isinstance(value, str) else np.full(rows, value)


def _first(column: Column) -> object:
    if isinstance(column, tuple):
        values, offsets = column
        return values[: offsets[1]].tolist()
    value: object = column[0].item() if isinstance(column, np.ndarray) else column[0]
    return value


def _common(parts: list[Ids]) -> Ids:
    """The ids of the first part, in its order, that all others have too; the first part itself if there are none."""
    common = parts[0]
    for other in parts[1:]:
        common = common[np.isin(common, other)]
    return common if common.size else parts[0]


def _ids_by_heat(path: Path) -> Ids:
    with safe_open(path, framework="numpy") as file:  # rows stay on disk
        keys, scores = file.get_tensor("keys"), file.get_tensor("scores")
    return split_keys(keys[np.argsort(-scores, kind="stable")])[1]


def _around(transform: Transform) -> tuple[float, float]:
    low, high = transform.boundaries[0], transform.boundaries[-1]
    margin = max(1.0, 0.1 * (high - low))
    return low - margin, high + margin
