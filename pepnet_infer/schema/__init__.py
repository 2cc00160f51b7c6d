"""The feature schema, the network's configuration, and the keys of rows."""

from pepnet_infer.schema.feature_schema import FeatureSchema, FieldSpec, JoinSpec, TableSpec, Transform
from pepnet_infer.schema.network_config import InputWidths, ModelConfig

__all__ = ["FeatureSchema", "FieldSpec", "InputWidths", "JoinSpec", "ModelConfig", "TableSpec", "Transform"]
