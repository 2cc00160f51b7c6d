"""Rows for measuring parity, drawn from a schema and its tables: what a request could be, the odd ones included."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pepnet_infer.bundle.table_file import open_table
from pepnet_infer.encode.features import Bag, Features
from pepnet_infer.rows.assemble import Assembler
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.feature_schema import FeatureSchema, FieldSpec
from pepnet_infer.schema.ids import MAX_ID, MISSING_KEY, Keys, make_keys
from pepnet_infer.schema.inputs import Inputs

_UNKNOWN, _MISSING = 0.1, 0.05  # shares of ids; what is left is known to the table
_MAX_BAG = 12
_FAR = 0.05  # share of dense values that lie anywhere in their range


Ranges = Mapping[str, tuple[float, float]]


def schema_inputs(
    schema: FeatureSchema, tables: Mapping[str, Path], rows: int, seed: int, ranges: Ranges | None = None
) -> Inputs:
    """Returns what `random_features` become through the files of the tables, by name."""
    keys = {name: open_table(path).keys for name, path in tables.items()}
    return Assembler(schema, MmapStore(tables)).inputs(random_features(schema, keys, rows, seed, ranges))


def random_features(
    schema: FeatureSchema,
    keys: Mapping[str, Keys],
    rows: int,
    seed: int,
    ranges: Ranges | None = None,
) -> Features:
    """Returns `rows` encoded rows: known, unknown and missing ids, bags from empty to long, dense values N(0, 1).

    `keys` are the known keys of each table by name, as its file has them. `ranges` are the least and the largest value
    of dense fields: theirs are normal within these, some anywhere in between, the first two at the ends.
    """
    rng = np.random.default_rng(seed)
    ids: dict[str, Keys] = {}
    bags: dict[str, Bag] = {}
    dense: dict[str, npt.NDArray[np.float32]] = {}
    for spec in schema.fields:
        if spec.kind == "dense":
            values = rng.standard_normal(rows).astype(np.float32)
            dense[spec.name] = _within(values, *ranges[spec.name], rng) if ranges and spec.name in ranges else values
        elif spec.kind == "id":
            ids[spec.name] = _draw(schema, spec, keys, rows, rng)
        else:
            lengths = rng.integers(0, min(_MAX_BAG, spec.max_len or _MAX_BAG) + 1, rows)
            lengths[rng.random(rows) < 0.2] = 0
            offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
            bags[spec.name] = Bag(_draw(schema, spec, keys, int(offsets[-1]), rng), offsets)
    return Features(rows, ids, bags, dense)


def _within(
    values: npt.NDArray[np.float32], least: float, largest: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    far = rng.random(len(values)) < _FAR
    spread = np.where(far, rng.uniform(least, largest, len(values)), np.clip(values, least, largest))
    spread[:1], spread[1:2] = least, largest
    return spread.astype(np.float32)


def _draw(
    schema: FeatureSchema, spec: FieldSpec, keys: Mapping[str, Keys], count: int, rng: np.random.Generator
) -> Keys:
    table = schema.table_by_name[spec.table or ""]
    known = keys[table.name]
    unknown = make_keys(table.number, rng.integers(0, MAX_ID, count, dtype=np.uint64))
    drawn = known[rng.integers(0, known.size, count)] if known.size else unknown
    kind = rng.random(count)
    drawn = np.where(kind < _UNKNOWN, unknown, drawn)
    return np.where(kind > 1.0 - _MISSING, MISSING_KEY, drawn)
