"""Stores of embedding rows, and what a store of your own is: the place to import them from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pepnet_infer.lazy_names import lazily

if TYPE_CHECKING:
    from pepnet_infer.rows.protocols import Identified, ReachableStore, RowSource, Store, WritableStore
    from pepnet_infer.rows.stores.lmdb import LmdbStore
    from pepnet_infer.rows.stores.memory import MemoryStore
    from pepnet_infer.rows.stores.mmap import MmapStore
    from pepnet_infer.rows.stores.redis import RedisStore
    from pepnet_infer.rows.stores.writable import fill_from
    from pepnet_infer.schema.row_batch import RowBatch

__all__ = [
    "Identified",
    "LmdbStore",
    "MemoryStore",
    "MmapStore",
    "ReachableStore",
    "RedisStore",
    "RowBatch",
    "RowSource",
    "Store",
    "WritableStore",
    "fill_from",
]

__getattr__ = lazily(
    __name__,
    {
        "Identified": "pepnet_infer.rows.protocols",
        "LmdbStore": "pepnet_infer.rows.stores.lmdb",
        "MemoryStore": "pepnet_infer.rows.stores.memory",
        "MmapStore": "pepnet_infer.rows.stores.mmap",
        "ReachableStore": "pepnet_infer.rows.protocols",
        "RedisStore": "pepnet_infer.rows.stores.redis",
        "RowBatch": "pepnet_infer.schema.row_batch",
        "RowSource": "pepnet_infer.rows.protocols",
        "Store": "pepnet_infer.rows.protocols",
        "WritableStore": "pepnet_infer.rows.protocols",
        "fill_from": "pepnet_infer.rows.stores.writable",
    },
)


def __dir__() -> list[str]:
    return __all__
