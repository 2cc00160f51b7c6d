"""A bundle's tables, put into a writable store piece by piece: memory stays small whatever the tables' size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pepnet_infer.bundle.table_file import open_table
from pepnet_infer.rows.protocols import WritableStore
from pepnet_infer.schema.feature_schema import TableSpec
from pepnet_infer.storage.tensorfile import from_bfloat16

CHUNK = 1 << 14  # rows a call


def fill_from(
    store: WritableStore,
    paths: Mapping[str, Path],
    specs: Mapping[str, TableSpec] | None = None,
    *,
    version: int = 0,
    chunk: int = CHUNK,
) -> int:
    """Puts every row of table files (name → file, as `Bundle.table_paths` has them) with its score.

    All get `version`: what the store has of that version or a newer one stays. Returns how many rows were applied.
    `specs` adds the widths and numbers to expect. Raises BundleError for a damaged file, StoreError as the store does.
    """
    applied = 0
    for name, path in paths.items():
        table = open_table(path, None if specs is None else specs[name])
        for at in range(0, table.keys.size, chunk):
            rows = table.rows[at : at + chunk]
            wide = from_bfloat16(rows) if table.dtype == "bfloat16" else rows.astype(np.float32)
            keys = table.keys[at : at + chunk].copy()  # a map's arrays may lie at odd addresses
            versions = np.full(keys.size, version, np.uint64)
            applied += store.put_many(keys, wide, versions, table.scores[at : at + chunk].copy())
    return applied
