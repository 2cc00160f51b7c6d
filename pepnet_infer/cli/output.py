"""What every subcommand shares: where results and progress go, and how an error ends the process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from pepnet_infer.quoting import printable

#: Progress and messages. Results go to stdout, so that they can be piped.
progress = Console(stderr=True)

#: The `--json` option every subcommand takes. (`bench` subcommands take a file: `--json F`.)
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def as_path(text: str) -> Path:
    """Parses a path. Raises BadParameter for an empty one, of which `Path` makes the working directory."""
    if not text:  # a variable that a shell script did not set
        raise typer.BadParameter("expected a file or folder, got an empty name; the working directory is '.'")
    return Path(text)


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
        render(Console())
