"""A store without rows: behind a cache that is all the memory there is."""

from __future__ import annotations

from pepnet_infer.ids import Keys
from pepnet_infer.store import Fetched


class EmptyStore:
    """A `Store` that has nothing."""

    def get_many(self, keys: Keys, dim: int) -> Fetched:
        """Returns that none of `keys` [N] is there; see `Store.get_many`."""
        return Fetched.nothing(len(keys), dim)
