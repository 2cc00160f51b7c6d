"""A store without rows: behind a cache that is all the memory there is."""

from __future__ import annotations

from pepnet_infer.rows.protocols import Fetched
from pepnet_infer.schema.ids import Keys


class EmptyStore:
    """A `Store` that has nothing."""

    def get_many(self, keys: Keys, dim: int) -> Fetched:
        """Returns that none of `keys` [N] is there; see `Store.get_many`."""
        return Fetched.nothing(len(keys), dim)
