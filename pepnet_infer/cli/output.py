"""What every subcommand shares: where results and progress go, and how an error ends the process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

#: Progress and messages. Results go to stdout, so that they can be piped.
progress = Console(stderr=True)

#: The `--json` option every subcommand takes. (`bench` subcommands take a file: `--json F`.)
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def emit(result: dict[str, Any], as_json: bool, render: Callable[[Console], None]) -> None:
    """Prints `result` as JSON, or lets `render` print it for a person."""
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
    else:
        render(Console())
