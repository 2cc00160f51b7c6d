"""Inference engine for PEPNet, the multi-domain multi-task ranking model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pepnet_infer.errors import (
    BackendError,
    BundleError,
    ClosedError,
    ConfigError,
    PepnetError,
    SchemaError,
    StoreError,
    UpdateError,
)
from pepnet_infer.lazy_names import lazily
from pepnet_infer.version import __version__

if TYPE_CHECKING:
    from pepnet_infer.encode.columns import BatchLike
    from pepnet_infer.encode.encoder import Encoded
    from pepnet_infer.encode.features import Features
    from pepnet_infer.engine import Engine
    from pepnet_infer.parquet import Summary, score_parquet
    from pepnet_infer.rows.cache.cached_rows import CachedRows
    from pepnet_infer.rows.cache.config import CacheConfig, FieldConfig
    from pepnet_infer.rows.cache.embedding_cache import EmbeddingCache
    from pepnet_infer.scores import Scores
    from pepnet_infer.stats import CacheStats, EngineStats, FollowStats

__all__ = [
    "BackendError",
    "BatchLike",
    "BundleError",
    "CacheConfig",
    "CacheStats",
    "CachedRows",
    "ClosedError",
    "ConfigError",
    "EmbeddingCache",
    "Encoded",
    "Engine",
    "EngineStats",
    "Features",
    "FieldConfig",
    "FollowStats",
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
__getattr__, __dir__ = lazily(
    __name__,
    {
        "pepnet_infer.encode.columns": ("BatchLike",),
        "pepnet_infer.encode.encoder": ("Encoded",),
        "pepnet_infer.encode.features": ("Features",),
        "pepnet_infer.engine": ("Engine",),
        "pepnet_infer.parquet": ("Summary", "score_parquet"),
        "pepnet_infer.rows.cache.cached_rows": ("CachedRows",),
        "pepnet_infer.rows.cache.config": ("CacheConfig", "FieldConfig"),
        "pepnet_infer.rows.cache.embedding_cache": ("EmbeddingCache",),
        "pepnet_infer.scores": ("Scores",),
        "pepnet_infer.stats": ("CacheStats", "EngineStats", "FollowStats"),
    },
)
