"""The feature schema, the network's configuration, and the keys of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pepnet_infer.lazy_names import lazily

if TYPE_CHECKING:
    from pepnet_infer.schema.feature_schema import FeatureSchema, FieldSpec, JoinSpec, TableSpec, Transform
    from pepnet_infer.schema.network_config import InputWidths, ModelConfig

__all__ = [
    "FeatureSchema",
    "FieldSpec",
    "InputWidths",
    "JoinSpec",
    "ModelConfig",
    "TableSpec",
    "Transform",
]

__getattr__ = lazily(
    __name__,
    {
        "FeatureSchema": "pepnet_infer.schema.feature_schema",
        "FieldSpec": "pepnet_infer.schema.feature_schema",
        "InputWidths": "pepnet_infer.schema.network_config",
        "JoinSpec": "pepnet_infer.schema.feature_schema",
        "ModelConfig": "pepnet_infer.schema.network_config",
        "TableSpec": "pepnet_infer.schema.feature_schema",
        "Transform": "pepnet_infer.schema.feature_schema",
    },
)


def __dir__() -> list[str]:
    return __all__
