"""Results for people: tables on a terminal, a page in Markdown, and the raw figures as JSON.

A table is rows of values and, by heading, a template for its cells: `{"p50 ms": "{p50_ms:ms}"}`. A value that a row
lacks, or None, is a dash. A template with a format sets figures to the right; one without holds words.
"""

from __future__ import annotations

import json
import string
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pepnet_infer.bench.harness.machine import facts, machine_line, machine_rows
from pepnet_infer.text_table import pad, text_table
from pepnet_infer.version import __version__

#: How everything is measured and what the columns mean is told once.
_METHOD = "How it is measured, and how to read it: docs/benchmarks.md and docs/cache_study.md."
#: The columns of times that most tables have.
TIMES = {"p50 ms": "{p50_ms:ms}", "p99 ms": "{p99_ms:ms}"}
_MACHINE = {"what": "{what}", "value": "{value}"}


def show_ms(millis: float) -> str:
    """Returns milliseconds with the digits that matter."""
    return f"{millis:.3f}" if millis < 1 else f"{millis:.2f}" if millis < 100 else f"{millis:.0f}"


#: Format → text of a value: times in ms, the same in µs, bytes in MiB, and a ratio with its 95 % interval.
_UNITS: Mapping[str, Callable[[Any], str]] = {
    "ms": show_ms,
    "us": lambda millis: f"{1e3 * millis:.1f}",
    "MiB": lambda size: f"{size / (1 << 20):,.0f}",
    "ratio": lambda of: f"{of['ratio']:.2f}× ({of['low']:.2f}–{of['high']:.2f})",
}


class _Cells(string.Formatter):
    """Formats with units, see `_UNITS`; None is a value that is not there."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            raise LookupError
        return _UNITS[format_spec](value) if format_spec in _UNITS else str(super().format_field(value, format_spec))


@dataclass(frozen=True)
class Table:
    """Rows of values under headings. `columns`: heading → template."""

    title: str
    rows: Sequence[Mapping[str, Any]]
    columns: Mapping[str, str]
    note: str = ""

    def cells(self) -> list[list[str]]:
        """Returns the rows as text."""
        return [[_cell(template, row) for template in self.columns.values()] for row in self.rows]

    def _words(self) -> list[bool]:
        return [":" not in template for template in self.columns.values()]

    def markdown(self) -> str:
        """Returns the table padded, so that its source reads as a table too."""
        lines = [[cell.replace("|", "\\|") for cell in line] for line in (list(self.columns), *self.cells())]
        widths, words = [max(3, *map(len, column)) for column in zip(*lines, strict=True)], self._words()
        rule = ["-" * w if word else "-" * (w - 1) + ":" for w, word in zip(widths, words, strict=True)]
        return "\n".join(f"| {' | '.join(pad(line, widths, words))} |" for line in (lines[0], rule, *lines[1:]))

    def text(self, width: int | None = None) -> str:
        """Returns the table for a terminal of `width` characters; None: as wide as it is.

        The first column is never cut. Columns that do not fit beside it follow below, with the first one again; words
        that are longer than a line are wrapped.
        """
        table = text_table(list(self.columns), self.cells(), self._words(), width)
        notes = textwrap.wrap(self.note, width or 120)
        return "\n".join([self.title, table, *notes])


@dataclass(frozen=True)
class Report:
    """What a command measured. `data` is everything as JSON values; the rest is what a person reads of it."""

    kind: str  # "latency", "offline", ...
    title: str
    about: str
    data: Mapping[str, Any]
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    picture: Callable[[], bytes] | None = field(default=None, compare=False)  # makes the PNG
    machine: Mapping[str, Any] = field(default_factory=facts)

    @property
    def lead(self) -> str:
        """What was measured, and on which machine."""
        return f"{self.about} Measured on {machine_line(self.machine)}."

    def to_json(self, command: str) -> str:
        """Returns the figures as JSON text. command: what to type to measure them again."""
        head = {"kind": self.kind, "command": command, "version": __version__, "machine": self.machine}
        return json.dumps({**head, "data": self.data}, indent=1, allow_nan=False) + "\n"

    def markdown(self, command: str, picture: str | None = None) -> str:
        """Returns the page. picture: the name of the PNG beside it."""
        parts = [f"# {self.title}", self.lead, f"    {command}"]
        parts += [f"![{self.title}]({picture})"] if picture else []
        for table in (*self.tables, Table("Machine", machine_rows(self.machine), _MACHINE)):
            parts += [f"**{table.title}**", table.markdown(), *([table.note] if table.note else [])]
        return "\n\n".join([*parts, *(f"- {note}" for note in (*self.notes, _METHOD))]) + "\n"


def _cell(template: str, row: Mapping[str, Any]) -> str:
    try:
        return _Cells().vformat(template, (), row)
    except LookupError:
        return "–"
