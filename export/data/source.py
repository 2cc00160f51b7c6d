"""Where training data comes from: a log of exposures and the side tables that join to it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pyarrow as pa

from pepnet_infer.errors import SchemaError
from pepnet_infer.export.data.kuairand import KuaiRand
from pepnet_infer.export.data.synthetic import Synthetic, SyntheticConfig
from pepnet_infer.schema.feature_schema import FeatureSchema, JoinSpec


class Source(Protocol):
    """One data set. Tables hold raw columns, as a scored file would."""

    name: str
    #: Columns that are known only after the exposure. No field may read them.
    outcomes: frozenset[str]
    #: The column of the log that says which day a row is of (an integer that grows with time).
    day_column: str
    #: The column with the time of an exposure, unix milliseconds.
    time_column: str
    #: The column that groups impressions for GAUC.
    user_column: str

    def interactions(self) -> pa.Table:
        """Returns the log in time order, without exact repeats."""

    def side(self, join: JoinSpec, first_day: int) -> pa.Table | None:
        """Returns the side table of `join`, None if the data set does not have it.

        What is derived from the log is derived from days before `first_day`, the first one trained on.
        """


def open_source(text: str, seed: int = 0) -> Source:
    """Returns the data set that `text` names: `kuairand:DIR`, `synthetic` or `synthetic:ROWS`.

    `seed` draws the synthetic traffic. Raises SchemaError for any other text.
    """
    kind, _, rest = text.partition(":")
    if kind == "kuairand" and rest:
        return KuaiRand(Path(rest))
    if kind == "synthetic":
        if not rest:
            return Synthetic(SyntheticConfig(seed=seed))
        if rest.isdecimal() and int(rest) >= 1:
            return Synthetic(SyntheticConfig(rows=int(rest), seed=seed))
    raise SchemaError(f"data: expected kuairand:DIR, synthetic or synthetic:ROWS, got {text!r}")


def refuse_leakage(schema: FeatureSchema, source: Source) -> None:
    """Raises SchemaError if an input of `schema` is known only after the exposure.

    Covers fields, the domain and join keys, in the log and in side tables: a label is an outcome whatever its name.
    """
    outcomes = source.outcomes | set(schema.labels)
    read = [(f"field {f.name!r}", f.column) for f in schema.fields]
    read += [(f"join {j.name!r}", column) for j in schema.joins for column in (j.column, j.key)]
    read.append(("the domain", schema.domain_column))
    for what, column in read:
        if column in outcomes:
            raise SchemaError(
                f"{what} reads column {column!r}: expected a column known before the exposure, got an outcome"
            )
