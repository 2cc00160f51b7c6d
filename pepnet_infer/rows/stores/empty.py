"""A store without rows: behind a cache that is all the memory there is."""

from __future__ import annotations

from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import RowBatch


class EmptyStore:
    """A `Store` that has nothing."""

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        """Returns that none of `keys` [N] is there; see `Store.get_many`."""
        return RowBatch.nothing(len(keys), dim)
