"""What a run did, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass
class Counts:
    """What has to be told about the rows of an output. Its metadata keep this, so that a resumed run tells it too."""

    null_rows: int = 0  #: bad rows, written with null scores
    faults: dict[str, str] = field(default_factory=dict)  #: column → the first bad row's fault there, and where
    #: field → ids that got the default row because the store failed or was late
    unavailable: dict[str, int] = field(default_factory=dict)


@dataclass
class Summary(Counts):
    """What a run did. `Counts` include the files that an earlier run had finished; all else is of this run."""

    files: int = 0  #: scored, those in `unfinished` among them
    rows: int = 0  #: that were scored, bad ones included
    seconds: float = 0.0  #: reading and writing included
    skipped: list[Path] = field(default_factory=list)  #: outputs that an earlier run had finished
    skipped_rows: int = 0  #: rows of these
    unknown: dict[str, int] = field(default_factory=dict)  #: field → ids that the store does not have
    #: outputs that did not take their names because ids were unavailable: the next run scores them anew
    unfinished: list[Path] = field(default_factory=list)

    @property
    def rows_per_s(self) -> float:
        """Rows scored a second, reading and writing included."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0

    def add(self, path: Path, counts: Counts) -> None:
        """Adds the counts of the input file at `path`."""
        self.null_rows += counts.null_rows
        self.faults = {name: f"{path}: {fault}" for name, fault in counts.faults.items()} | self.faults
        add_counts(self.unavailable, counts.unavailable)


def add_counts(counts: dict[str, int], more: Mapping[str, int]) -> None:
    """Adds `more` to `counts`. They are no Counter: `dataclasses.asdict` makes another of its pairs."""
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count


@dataclass(frozen=True)
class FileProgress:
    """How far one input file is. Seconds since it was opened."""

    path: Path
    rows: int
    of_rows: int
    null_rows: int
    seconds: float


@dataclass(frozen=True)
class Progress:
    """How far a run is: all files checked, a batch scored, or a file written under its name.

    Rows and files are those of this run, without the ones that an earlier run had finished; null rows are of both.
    """

    event: Literal["checked", "batch", "file"]
    files: int
    of_files: int
    rows: int
    of_rows: int
    null_rows: int
    seconds: float  # since the run began
    file: FileProgress | None = None  # the file that is being scored, or was written; None where all were checked
