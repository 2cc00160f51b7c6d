"""How a command ends: the exit codes, and errors for people (on stderr) and, with --json, for programs (on stdout)."""

from __future__ import annotations

import json
import os
import sys
from enum import IntEnum
from typing import Any, NoReturn

from pepnet_infer.cli.output import progress, say


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
