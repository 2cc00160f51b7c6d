"""What a run did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Summary:
    """What a run did. Rows of files that an earlier run had finished are not counted."""

    files: int = 0  # scored, those in `unfinished` among them
    rows: int = 0
    seconds: float = 0.0
    null_rows: int = 0  # rows with a fault, written with null scores
    skipped: list[Path] = field(default_factory=list)  # outputs that were finished already
    faults: dict[str, str] = field(default_factory=dict)  # column → the first fault of a row there, and where
    unknown: dict[str, int] = field(default_factory=dict)  # field → ids that the store does not have
    #: field → ids that got the default row because the store failed or was late
    unavailable: dict[str, int] = field(default_factory=dict)
    #: outputs that did not take their names because ids were unavailable: the next run scores them anew
    unfinished: list[Path] = field(default_factory=list)

    @property
    def rows_per_s(self) -> float:
        """Rows scored a second, reading and writing included."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0


def add_counts(total: dict[str, int], counts: Mapping[str, int]) -> None:
    """Adds counts by field to `total`."""
    for name, count in counts.items():
        total[name] = total.get(name, 0) + count
