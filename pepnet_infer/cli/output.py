"""What every subcommand shares: where results and progress go, paths, threads, and the one way to print a table."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from pepnet_infer.bundle.bundle import MANIFEST
from pepnet_infer.bundle.checkpoint import DOCUMENT
from pepnet_infer.errors import BundleError
from pepnet_infer.quoting import printable

#: Progress and messages. Results go to stdout, so that they can be piped.
progress = Console(stderr=True)

#: The `--json` option every subcommand takes. (`bench` subcommands take a file: `--json F`.)
AsJson = Annotated[bool, typer.Option("--json", help="Print the result, or the error, as JSON on stdout.")]

_FIGURE = re.compile(r"[-–+±≈\d.,e×%\s]*")
#: Columns of words are folded, but to no less than this many characters.
_LEAST = 12
#: The width where there is no terminal and COLUMNS says none: a row of a table is a line, so that it can be searched.
_UNLIMITED = 10_000


def as_path(text: str) -> Path:
    """Parses a path. Raises BadParameter for an empty one, of which `Path` makes the working directory."""
    if not text:  # a variable that a shell script did not set
        raise typer.BadParameter("expected a file or folder, got an empty name; the working directory is '.'")
    return Path(text)


def expect_bundle(path: Path) -> None:
    """Raises BundleError where nothing is that could be a bundle, with what would make it one."""
    if os.path.lexists(path / MANIFEST):
        return
    if os.path.lexists(path / DOCUMENT):
        raise BundleError(f"{path}: expected a bundle, got a checkpoint; `pepnet-infer export {path}` makes one of it")
    got = "a folder without it" if path.is_dir() else "a file" if path.exists() else "nothing"
    raise BundleError(
        f"{path}: expected a bundle (a folder with {MANIFEST}), got {got}; `pepnet-infer export` writes one"
    )


def as_text(value: object) -> str:
    """Returns markup that shows a value from outside as it is: brackets are no tags, and what does not print is said.

    A bundle is untrusted: its names would else move the cursor of whoever looks at it, or end the command.
    """
    return escape(printable(str(value)))


def emit(result: dict[str, Any], as_json: bool, render: Callable[[Console], None]) -> None:
    """Prints `result` as JSON, or lets `render` print it for a person."""
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
    else:
        render(results())


def results() -> Console:
    """Returns the console for results: as wide as the terminal, or as COLUMNS says; else a row of a table is a line."""
    given = os.environ.get("COLUMNS", "")
    return Console() if given.isdigit() or sys.stdout.isatty() else Console(width=_UNLIMITED)


def say(console: Console, text: str) -> None:
    """Prints a line of text as it is, which nothing folds."""
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def show_table(
    console: Console, title: str, head: Sequence[str], rows: Iterable[Sequence[object]], note: str = ""
) -> None:
    """Prints a table whose first column is whole, whatever the width: other columns are folded, and none is cut.

    Where even that is too wide, lines run over the edge. Columns of figures are set to the right. Cells are text as it
    is, not markup, except those that are a `Text`. An empty `head` shows no heading.
    """
    lines = [[cell if isinstance(cell, Text) else Text(printable(str(cell))) for cell in row] for row in rows]
    count = max(map(len, [head, *lines]))
    lines = [[*line, *[Text()] * (count - len(line))] for line in lines]
    columns = []
    for at in range(count):
        cells = [line[at].plain for line in lines]
        name = head[at] if head else ""
        figures = at > 0 and all(map(_FIGURE.fullmatch, cells))
        parts = [name, *cells] if at == 0 else [part for cell in [name, *cells] for part in cell.split()]
        least = max(map(len, parts), default=0)
        justify: Literal["right", "left"] = "right" if figures else "left"
        least = least if figures or at == 0 else min(least, _LEAST)
        columns.append(Column(name, justify=justify, no_wrap=at == 0, overflow="fold", min_width=least))
    table = Table(*columns, title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE)
    table.show_header = bool(head)
    table.caption, table.caption_justify = note or None, "left"
    for line in lines:
        table.add_row(*line)
    width = console.width
    free = console.options.update(width=_UNLIMITED)
    console.width = max(width, Measurement.get(console, free, table).minimum)
    console.print(table, crop=False)
    console.width = width
