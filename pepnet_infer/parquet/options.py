"""What a caller may choose about scored files, checked, and what follows for one file's columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import pyarrow as pa
from msgspec import Meta

from pepnet_infer.errors import ConfigError, SchemaError
from pepnet_infer.quoting import clip, quote
from pepnet_infer.validation import Options

if TYPE_CHECKING:
    from pepnet_infer.parquet.source import Source
    from pepnet_infer.schema.feature_schema import FeatureSchema

OnBadRow = Literal["raise", "null"]
OnFault = Literal["raise", "unfinished", "accept"]
#: Large enough that the work per batch outweighs Python's, small enough that a wide model's inputs stay below 100 MB.
BATCH_ROWS = 8192
_MAX_BATCH_ROWS = 1 << 20


class ScoreOptions(Options, frozen=True):
    """Columns carried through (None: the ids and the domain), what a bad row and a failing store do, rows per batch.

    Raises ConfigError.
    """

    columns: Sequence[str] | Literal["all"] | None = None
    on_bad_row: OnBadRow = "raise"
    batch_rows: Annotated[int, Meta(ge=1, le=_MAX_BATCH_ROWS)] = BATCH_ROWS
    on_fault: OnFault = "raise"

    def __post_init__(self) -> None:
        if isinstance(self.columns, (set, frozenset)):  # another order in each process
            raise ConfigError(f"columns: expected a list, got {quote(self.columns)}")
        Options.__post_init__(self)

    def to_json(self) -> dict[str, object]:
        """Returns what the bytes of the output depend on; not `on_fault`, without whose rows all are the same."""
        named = self.columns if self.columns is None or isinstance(self.columns, str) else list(self.columns)
        return {"columns": named, "on_bad_row": self.on_bad_row, "batch_rows": self.batch_rows}

    def carried(self, source: Source, schema: FeatureSchema) -> list[str]:
        """Returns the columns that go to the output.

        One that a folder's name gives goes there as well, unless the output lies in a folder of that name: whoever
        reads the output finds it there, and would find it twice. Raises SchemaError for a named column that is not
        there or is named twice, and for one whose name a score has.
        """
        there, outside = source.schema.names, source.outside
        if self.columns is None:
            ids = {f.column for f in schema.fields if f.kind == "id" and f.join is None}
            ids |= {join.column for join in schema.joins} | {schema.domain_column}
            names = [name for name in [*there, *outside] if name in ids]
        elif self.columns == "all":
            names = [*there, *outside]
        else:
            names = list(self.columns)
        for name in names:
            if names.count(name) > 1:
                raise SchemaError(column=name, expected="it once in columns", got="it twice")
            if not source.has(name):
                got = f"columns {clip(', '.join(there))}"
                raise SchemaError(file=source.path, column=name, expected="it, to carry it through", got=got)
        names = [name for name in names if name in there or name in outside]
        for name in score_names(schema):
            if name in source.kept:  # who reads the folder would take its value for the score
                expected = "no folder of a score's name above the output"
                raise SchemaError(file=source.path, column=name, expected=expected, got="one")
            if name in names:
                expected = "no column of a score's name to carry"
                raise SchemaError(file=source.path, column=name, expected=expected, got="one")
        return names


def score_names(schema: FeatureSchema) -> list[str]:
    """Returns the names of the score columns, in the order of the tasks."""
    return [f"score_{task}" for task in schema.tasks]


def output_schema(
    source: Source, carried: Sequence[str], schema: FeatureSchema, metadata: dict[bytes | str, bytes | str]
) -> pa.Schema:
    """Returns the output's columns: the carried ones as they are, then one float32 a task."""
    scores = [pa.field(name, pa.float32()) for name in score_names(schema)]
    return pa.schema([*source.fields(carried), *scores], metadata=metadata)
