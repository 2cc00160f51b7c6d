"""Options of scoring files, and their validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from pepnet_infer.errors import ConfigError
from pepnet_infer.quoting import quote
from pepnet_infer.validation import Options

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
