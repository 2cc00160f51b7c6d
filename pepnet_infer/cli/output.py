"""What every subcommand shares: paths, where results, progress and errors go, tables, letters, and the exit codes."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from pepnet_infer.bundle.bundle import MANIFEST
from pepnet_infer.bundle.checkpoint import DOCUMENT
from pepnet_infer.errors import BundleError
from pepnet_infer.quoting import printable
from pepnet_infer.text_table import text_table

#: Progress and messages. Results go to stdout, so that they can be piped.
progress = Console(stderr=True)

#: The `--json` option every subcommand takes. (`bench` subcommands take a file: `--json F`.)
AsJson = Annotated[bool, typer.Option("--json", help="Print the result, or the error, as JSON on stdout.")]


class ExitCode(IntEnum):
    """Every exit code of `pepnet-infer`. docs/jobs.md has the same table."""

    DONE = 0
    FAILED = 1  # an error
    USAGE = 2  # wrong usage: nothing was read or written
    INCOMPLETE = 3  # `score` went through all files, but some are not finished, or too many rows are bad
    INTERRUPTED = 130  # SIGINT, Ctrl-C
    TERMINATED = 143  # SIGTERM


#: Fields that every error has in JSON, null where an error has no such place.
_FIELDS = ("column", "row", "file")

_FIGURE = re.compile(r"[-–+±≈\d.,e×%\s]*")

_HANDLER = "pepnet_infer.spell"
#: How signs of ours are written where they do not exist.
_SPELLED = str.maketrans(
    {
        "×": "x",
        "·": "*",
        "→": "->",
        "←": "<-",
        "≤": "<=",
        "≥": ">=",
        "≈": "~",
        "±": "+-",
        "−": "-",
        "–": "-",
        "—": "-",
        "…": "...",
        "Δ": "delta ",
        "µ": "u",
        "•": "*",
        **dict.fromkeys(map(chr, range(0x2500, 0x25A0)), "-"),  # rules, boxes and bars
        **dict.fromkeys(map(chr, range(0x2800, 0x2900)), "*"),  # spinners
    }
)


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
    got = "a folder without it" if os.path.isdir(path) else "a file" if os.path.exists(path) else "nothing"
    raise BundleError(
        f"{path}: expected a bundle (a folder with {MANIFEST}), got {got}; `pepnet-infer export` writes one"
    )


def emit(result: dict[str, Any], as_json: bool, render: Callable[[Console], None] | Iterable[str]) -> None:
    """Prints `result` as JSON, or for a person: these lines, or what `render` prints."""
    console = Console()
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
    elif callable(render):
        render(console)
    else:
        for line in render:
            say(console, line)


def say(console: Console, text: str) -> None:
    """Prints a line of text as it is, which nothing folds: brackets are no tags, and what does not print is said.

    A bundle is untrusted: its names would else move the cursor of whoever looks at it, or end the command.
    """
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def table_width() -> int | None:
    """Returns how wide a table on stdout may be: what COLUMNS says, or the terminal; else a row is a line."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def show_table(
    console: Console, title: str, head: Sequence[str], rows: Iterable[Sequence[object]], note: str = ""
) -> None:
    """Prints a table; see `text_table`. Columns without letters are figures, empty ones are left out.

    Rows may lack their last cells. An empty `head` shows no headings.
    """
    lines = [[printable(str(cell)) for cell in row] for row in rows]
    count = max(map(len, [head, *lines]))
    lines = [line + [""] * (count - len(line)) for line in lines]
    used = [at for at in range(count) if at == 0 or any(line[at] for line in lines)]
    head, lines, count = [head[at] for at in used if head], [[line[at] for at in used] for line in lines], len(used)
    words = [at == 0 or not all(_FIGURE.fullmatch(line[at]) for line in lines) for at in range(count)]
    if title:
        console.print(Text(printable(title), style="bold"), soft_wrap=True)
    table = text_table(list(head) or [""] * count, lines, words, table_width())
    for line in [*table.split("\n"), *([note] if note else []), ""]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def fail(kind: str, message: str, code: ExitCode, as_json: bool, fields: dict[str, Any] | None = None) -> NoReturn:
    """Ends the process with a sentence on stderr and, with `as_json`, the error as JSON on stdout."""
    say(progress, f"error: {kind}: {message}")
    if as_json:
        error = {"kind": kind, "message": message, "exit_code": int(code), **dict.fromkeys(_FIELDS), **(fields or {})}
        print_all(json.dumps({"error": error}, indent=2, allow_nan=False))
    else:
        print_all()
    sys.exit(code)


def print_all(text: str = "") -> None:
    """Prints `text` and what stdout holds still; where nobody reads that, or a disk is full, it is given up."""
    if sys.stdout is None:
        return
    try:
        print(text, end="\n" if text else "", flush=True)
    except OSError:  # what stdout still holds would raise again when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_everything() -> None:
    """Makes stdout and stderr spell out what their encoding does not have, where that would raise an error.

    A handler that the user chose (PYTHONIOENCODING=ascii:replace) is left as it is.
    """
    codecs.register_error(_HANDLER, _spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "backslashreplace", "surrogateescape"):
            stream.reconfigure(errors=_HANDLER)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    spelled = error.object[error.start : error.end].translate(_SPELLED)
    return spelled.encode("ascii", "backslashreplace").decode(), error.end
