"""The flags that one baseline alone reads: `extra` of its config."""

from __future__ import annotations

from typing import TypeVar

from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.feature_schema import Width
from pepnet_infer.schema.network_config import ModelConfig
from pepnet_infer.validation import Options, convert

Extra = TypeVar("Extra", bound=Options)


class NoExtra(Options, frozen=True):
    """The `extra` of a baseline without flags of its own, and the base of the others."""

    refusal = SchemaError


class PleExtra(NoExtra, frozen=True):
    """The `extra` of PLE."""

    levels: Width = 1  #: 1 is CGC itself
    specific: Width = 1  #: experts of each task
    shared: Width = 2  #: experts of all tasks


class DcnExtra(NoExtra, frozen=True):
    """The `extra` of DCN-v2."""

    cross_layers: Width = 3
    rank: Width | None = None  #: None: full matrices


class DeepFmExtra(NoExtra, frozen=True):
    """The `extra` of DeepFM. Without slots every column of x is a feature of its own."""

    field_width: Width = 16
    slots: tuple[Width, ...] = ()  #: widths of the leading slots


def read_extra(config: ModelConfig, kind: type[Extra]) -> Extra:
    """Returns the flags of a baseline's own. Raises SchemaError naming the one that is unknown or off."""
    extra: Extra = convert("", config.extra, kind, SchemaError, "config.extra")
    return extra
