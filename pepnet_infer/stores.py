"""Stores of embedding rows, and what a store of your own is: the place to import them from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pepnet_infer.lazy_names import lazily
from pepnet_infer.rows.protocols import (
    DefaultCounts,
    Identified,
    ReachableStore,
    RowRequest,
    RowSource,
    Store,
    WritableStore,
)
from pepnet_infer.rows.stores.lmdb import LmdbStore
from pepnet_infer.rows.stores.memory import MemoryStore
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.rows.stores.writable import fill_from
from pepnet_infer.schema.row_batch import RowBatch

if TYPE_CHECKING:
    from pepnet_infer.rows.stores.redis import RedisStore

__all__ = [
    "DefaultCounts",
    "Identified",
    "LmdbStore",
    "MemoryStore",
    "MmapStore",
    "ReachableStore",
    "RedisStore",
    "RowBatch",
    "RowRequest",
    "RowSource",
    "Store",
    "WritableStore",
    "fill_from",
]

# Needs the package redis.
__getattr__, __dir__ = lazily(__name__, {"pepnet_infer.rows.stores.redis": ("RedisStore",)})
