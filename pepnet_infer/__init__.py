"""Inference engine for PEPNet, the multi-domain multi-task ranking model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pepnet_infer.errors import (
    BackendError,
    BundleError,
    ConfigError,
    PepnetError,
    SchemaError,
    StoreError,
    UpdateError,
)
from pepnet_infer.lazy_names import lazily
from pepnet_infer.version import __version__

if TYPE_CHECKING:
    from pepnet_infer.engine import Engine
    from pepnet_infer.parquet import Summary, score_parquet
    from pepnet_infer.rows.cache.config import CacheConfig, FieldConfig
    from pepnet_infer.rows.cache.embedding_cache import EmbeddingCache
    from pepnet_infer.scores import Scores

__all__ = [
    "BackendError",
    "BundleError",
    "CacheConfig",
    "ConfigError",
    "EmbeddingCache",
    "Engine",
    "FieldConfig",
    "PepnetError",
    "SchemaError",
    "Scores",
    "StoreError",
    "Summary",
    "UpdateError",
    "__version__",
    "score_parquet",
]

# `import pepnet_infer` costs no Arrow, no extension and no backend.
__getattr__ = lazily(
    __name__,
    {
        "CacheConfig": "pepnet_infer.rows.cache.config",
        "EmbeddingCache": "pepnet_infer.rows.cache.embedding_cache",
        "FieldConfig": "pepnet_infer.rows.cache.config",
        "Engine": "pepnet_infer.engine",
        "Scores": "pepnet_infer.scores",
        "Summary": "pepnet_infer.parquet",
        "score_parquet": "pepnet_infer.parquet",
    },
)


def __dir__() -> list[str]:
    return __all__
