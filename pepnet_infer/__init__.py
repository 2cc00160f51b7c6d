"""Inference engine for PEPNet, the multi-domain multi-task ranking model."""

from __future__ import annotations

from importlib import import_module
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
from pepnet_infer.version import __version__

if TYPE_CHECKING:
    from pepnet_infer.engine import Engine
    from pepnet_infer.parquet import Summary, score_parquet
    from pepnet_infer.rows.cache.config import CacheConfig, FieldConfig
    from pepnet_infer.rows.cache.embedding_cache import EmbeddingCache
    from pepnet_infer.rows.cache.update_window import UpdateWindow
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
    "UpdateWindow",
    "__version__",
    "score_parquet",
]

# Imported when first asked for: `import pepnet_infer` costs no Arrow, no extension and no backend.
_LAZY = {
    "CacheConfig": "pepnet_infer.rows.cache.config",
    "EmbeddingCache": "pepnet_infer.rows.cache.embedding_cache",
    "FieldConfig": "pepnet_infer.rows.cache.config",
    "UpdateWindow": "pepnet_infer.rows.cache.update_window",
    "Engine": "pepnet_infer.engine",
    "Scores": "pepnet_infer.scores",
    "Summary": "pepnet_infer.parquet",
    "score_parquet": "pepnet_infer.parquet",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
