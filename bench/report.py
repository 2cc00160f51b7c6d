"""Results of a benchmark, as data and for people. Every command of `bench` writes these and nothing of its own.

A `Result` is plain JSON. A `Page` is what a person reads of it, made from nothing but the result, so that a stored
result can be shown again: tables for the terminal, for Markdown and for one HTML file that needs no other.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table as RichTable
from rich.text import Text

from pepnet_infer.errors import PepnetError
from pepnet_infer.storage.atomic import write_file
from pepnet_infer.version import __version__

FORMAT_VERSION = 1

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #d9dee5; --back: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa5b4; --line: #333c48; --back: #14181d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 2.5rem auto;
  max-width: 70rem; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2.2rem }
p.note { color: var(--soft); max-width: 55rem }
pre { background: color-mix(in srgb, var(--ink) 6%, transparent); padding: .7rem 1rem; overflow-x: auto; }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { color: var(--soft); font-weight: 600 } .left { text-align: left } td.wrap { white-space: normal }
img { max-width: 100%; background: #ffffff; border-radius: 4px }
"""


@dataclass(frozen=True)
class Result:
    """What a command measured. `data` is the command's own; all else is the same for every command."""

    kind: str  # "latency", "offline", ...
    command: str  # what to type to measure it again; no paths of this machine
    machine: dict[str, Any]
    data: dict[str, Any]
    tool_version: str = __version__
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Returns the result as JSON text, keys in order."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "result") -> Result:
        """Reads what `to_json` wrote. Raises PepnetError for anything else, and for a newer format."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise PepnetError(f"{where}: expected JSON, got {error}") from error
        wanted = {"kind": str, "command": str, "machine": dict, "data": dict, "tool_version": str}
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise PepnetError(f"{where}: format_version: expected {FORMAT_VERSION}, got {version!r}")
        for name, kind in wanted.items():
            if not isinstance(data.get(name), kind):
                raise PepnetError(f"{where}: {name}: expected {kind.__name__}, got {data.get(name)!r}")
        if unknown := sorted(set(data) - set(wanted) - {"format_version"}):
            raise PepnetError(f"{where}: unknown key {unknown[0]!r}")
        return cls(**data)


@dataclass(frozen=True)
class Table:
    """Cells as text. Columns named in `left` hold words; all others hold figures and are set to the right."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    left: frozenset[str] = frozenset()
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: expected {len(self.columns)} cells, got {list(row)}")

    def markdown(self) -> str:
        """Returns the table for a README, padded so that its source reads as a table too."""
        lines = [self.columns, *self.rows]
        cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
        widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(self.columns))]
        words = [name in self.left for name in self.columns]

        def row(line: Sequence[str]) -> str:
            padded = (c.ljust(w) if word else c.rjust(w) for c, w, word in zip(line, widths, words, strict=True))
            return f"| {' | '.join(padded)} |"

        rule = ["-" * w if word else "-" * (w - 1) + ":" for w, word in zip(widths, words, strict=True)]
        return "\n".join([row(cells[0]), row(rule), *map(row, cells[1:])])

    def rich(self) -> RichTable:
        """Returns the table for the terminal."""
        table = RichTable(title=self.title, title_justify="left", caption=self.note or None, box=SIMPLE, pad_edge=False)
        table.caption_justify = "left"
        for name in self.columns:
            words = name in self.left
            heading = name if words else name.replace(" ", "\n")  # figures are narrow, so let their headings be
            table.add_column(heading, justify="left" if words else "right", no_wrap=not words)
        for row in self.rows:
            table.add_row(*map(Text, row))  # not strings: rich takes [words] in them for markup
        return table

    def html(self) -> str:
        """Returns an HTML section."""
        head = "".join(f"<th{self._css(name)}>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td{self._css(n)}>{html.escape(c)}</td>" for n, c in zip(self.columns, row, strict=True))
            + "</tr>\n"
            for row in self.rows
        )  # fmt: skip
        note = f'<p class="note">{html.escape(self.note)}</p>' if self.note else ""
        table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'
        return f"<h2>{html.escape(self.title)}</h2>\n{table}\n{note}"

    def _css(self, name: str) -> str:
        return ' class="left wrap"' if name in self.left else ""


@dataclass(frozen=True)
class Page:
    """A result made readable: a headline, what was run, tables, a picture, and how to read them."""

    title: str
    lead: str
    command: str
    tables: list[Table]
    details: tuple[Table, ...] = ()  # shown on the HTML page only
    notes: tuple[str, ...] = ()
    picture: bytes | None = None  # PNG
    picture_says: str = ""  # the picture in words, for who cannot see it

    def html(self) -> str:
        """Returns one HTML file: style and picture are in it, nothing is loaded from anywhere."""
        picture = ""
        if self.picture is not None:
            data = base64.b64encode(self.picture).decode()
            picture = f'<p><img alt="{html.escape(self.picture_says)}" src="data:image/png;base64,{data}"></p>'
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(self.title)}</title>\n'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>\n'
            f"<h1>{html.escape(self.title)}</h1>\n<p>{html.escape(self.lead)}</p>\n"
            f"<pre>{html.escape(self.command)}</pre>\n{picture}\n"
            + "\n".join(table.html() for table in [*self.tables, *self.details])
            + (f"\n<h2>How it was measured</h2><ul>{notes}</ul>" if notes else "")
            + "\n</body></html>\n"
        )

    def markdown(self) -> str:
        """Returns tables, command and machine line for a README."""
        parts = [
            self.lead,
            *(f"**{t.title}**\n\n{t.markdown()}" + (f"\n\n{t.note}" if t.note else "") for t in self.tables),
        ]
        return "\n\n".join([*parts, f"    {self.command}"]) + "\n"


def show_ms(millis: float) -> str:
    """Returns milliseconds with the digits that matter."""
    return f"{millis:.3f}" if millis < 1 else f"{millis:.2f}" if millis < 100 else f"{millis:.0f}"


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file that appears whole or not at all. Raises PepnetError with the path and what the system said."""
    data = content.encode() if isinstance(content, str) else content
    try:
        write_file(path, data)
    except OSError as error:
        raise PepnetError(f"{path}: cannot write: {error}") from error
