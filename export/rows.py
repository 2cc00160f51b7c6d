"""Rows for measuring parity, drawn from a schema and its tables: what a request could be, the odd ones included."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pepnet_infer.features import Bag, Features
from pepnet_infer.ids import MAX_ID, MISSING_KEY, Keys, make_keys
from pepnet_infer.schema import FeatureSchema, FieldSpec

_UNKNOWN, _MISSING = 0.1, 0.05  # shares of ids; what is left is known to the table
_MAX_BAG = 12


def random_features(schema: FeatureSchema, keys: Mapping[str, Keys], rows: int, seed: int) -> Features:
    """Returns `rows` encoded rows: known, unknown and missing ids, bags from empty to long, dense values N(0, 1).

    `keys` are the known keys of each table by name, as its file has them.
    """
    rng = np.random.default_rng(seed)
    ids: dict[str, Keys] = {}
    bags: dict[str, Bag] = {}
    dense: dict[str, npt.NDArray[np.float32]] = {}
    for spec in schema.fields:
        if spec.kind == "dense":
            dense[spec.name] = rng.standard_normal(rows).astype(np.float32)
        elif spec.kind == "id":
            ids[spec.name] = _draw(schema, spec, keys, rows, rng)
        else:
            lengths = rng.integers(0, min(_MAX_BAG, spec.max_len or _MAX_BAG) + 1, rows)
            lengths[rng.random(rows) < 0.2] = 0
            offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
            bags[spec.name] = Bag(_draw(schema, spec, keys, int(offsets[-1]), rng), offsets)
    return Features(rows, ids, bags, dense)


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
