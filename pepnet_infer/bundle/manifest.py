"""The types of a bundle's `manifest.json` and `parity.json`, checked when the bundle is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from pepnet_infer.bundle.input_domain import InputDomain
from pepnet_infer.errors import BundleError
from pepnet_infer.schema.feature_schema import Domain
from pepnet_infer.validation import Count, Finite, NotNegative, Positive, Seed, Share, Version, convert

#: Golden rows of a bundle at most; export writes some dozens. `verify` makes inputs for each.
MAX_GOLDEN = 4096


class Document(Struct, frozen=True, kw_only=True):
    """What `manifest.json` and `checkpoint.json` have in common. Schema and config are read by those who know them."""

    format_version: Count
    schema: dict[str, Any]
    config: dict[str, Any]
    schema_hash: str
    files: dict[str, Any]


class Manifest(Document, frozen=True, kw_only=True):
    """`manifest.json`. A bundle from before there were budgets has no `precisions`, one of format 1 no `network`."""

    model_version: Version
    tasks: list[str]
    domains: list[Domain]
    network: dict[str, Any] | None = None
    precisions: dict[str, Any] = {}
    tools: dict[str, str] = {}
    meta: dict[str, Any] = {}


class Spread(Struct, frozen=True):
    """Differences from float64 on a set of rows."""

    rows: Count
    max_abs: NotNegative
    rms: NotNegative


class Auc(Struct, frozen=True):
    """What ordering rows by a precision's scores costs, by task; None where a task has no AUC."""

    rows: Count
    delta: dict[str, Finite | None]


class Measured(Struct, frozen=True):
    """An instruction set that was measured."""

    how: str
    normal: Spread
    schema: Spread
    auc: Auc
    draws: Spread | None = None


class NotMeasured(Struct, frozen=True):
    """An instruction set that was not."""

    why: str


class NativePrecision(Struct, frozen=True):
    """What export measured of the native kernels in one precision."""

    offered: bool
    why: str
    isas: dict[str, dict[str, Any]]
    max_abs: Finite | None = None
    rms: Finite | None = None
    delta_auc: Finite | None = None
    domain: InputDomain | None = None


class GoldenRows(Struct, frozen=True):
    """The seed of rows, and their scores in float64 [rows, tasks]."""

    seed: Seed
    scores: Annotated[list[list[Share]], Meta(min_length=1, max_length=MAX_GOLDEN)]


class Parity(Struct, frozen=True):
    """`parity.json`. `config` and `network` are those of what was measured; of format 1 there is no `network`."""

    tolerance: Positive
    seed: Seed
    fp32: dict[str, dict[str, Spread]]
    golden: GoldenRows
    config: dict[str, Any]
    network: dict[str, Any] | None = None
    native: dict[str, Any] = {}


def read_parity(where: str, document: Mapping[str, Any], tasks: int) -> Parity:
    """Returns a `parity.json` as its type. Raises BundleError naming the key that is off."""
    parity: Parity = convert(where, document, Parity, BundleError)
    for row, scores in enumerate(parity.golden.scores):
        if len(scores) != tasks:
            raise BundleError(f"golden.scores[{row}]: expected {tasks} numbers, got {len(scores)}", within=where)
    for precision, entry in parity.native.items():
        here = f"{where}: native.{precision}"
        if precision == "why":
            convert(here, entry, str, BundleError)
            continue
        native: NativePrecision = convert(here, entry, NativePrecision, BundleError)
        for isa, measured in native.isas.items():
            kind = Measured if "auc" in measured else NotMeasured
            convert(f"{here}.isas.{isa:.20}", measured, kind, BundleError)
    return parity
