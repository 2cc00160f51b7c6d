"""A bundle's tables, put into a writable store piece by piece: memory stays small whatever the tables' size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pepnet_infer.bundle.table_file import open_table
from pepnet_infer.rows.protocols import WritableStore
from pepnet_infer.schema.feature_schema import TableSpec

CHUNK = 1 << 14  # rows a call


def fill_from(
    store: WritableStore,
    paths: Mapping[str, Path],
    specs: Mapping[str, TableSpec] | None = None,
    *,
    version: int = 0,
) -> int:
    """Puts every row of table files (name → file, as `Bundle.table_paths` has them) with its score.

    All get `version`: what the store has of that version or a newer one stays. Returns how many rows were applied.
    `specs` adds the widths and numbers to expect. Raises BundleError for a damaged file, StoreError as the store does.
    """
    applied = 0
    for name, path in paths.items():
        table = open_table(path, None if specs is None else specs[name])
        for begin in range(0, table.keys.size, CHUNK):
            batch = table.take(slice(begin, begin + CHUNK))
            versions = np.full(batch.keys.size, version, np.uint64)
            applied += store.put_many(batch.keys, batch.rows, versions, batch.scores)
    return applied
