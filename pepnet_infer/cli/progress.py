"""Progress of a long command, on stderr: a bar on a terminal, lines with the time elsewhere, and a line on SIGUSR1."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from datetime import datetime
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pepnet_infer.cli.output import progress, say
from pepnet_infer.quoting import printable

ProgressMode = Literal["auto", "plain", "none"]
ProgressOption = Annotated[
    ProgressMode,
    typer.Option(
        "--progress",
        help="plain: lines with the time; auto: a bar on a terminal, plain elsewhere. SIGUSR1 asks for a line.",
    ),
]


class Watch:
    """Shows one piece of work at a time, as a block of `with`.

    On SIGUSR1 it says at once how far the work is, whatever the mode, also while a call into the extension or a store
    waits; outside of the block that signal does what it did before.
    """

    def __init__(self, mode: ProgressMode) -> None:
        self._plain = mode == "plain" or (mode == "auto" and not progress.is_terminal)
        self._bars: Progress | None = None
        if mode == "auto" and not self._plain:
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}"))
            self._bars = Progress(TextColumn("{task.description}", markup=False), *columns, console=progress)
        self._now = "starting"
        self._before: signal._HANDLER = signal.SIG_DFL

    def __enter__(self) -> Watch:
        self._before = signal.signal(signal.SIGUSR1, lambda *_: _write(self._now))
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()
        signal.signal(signal.SIGUSR1, self._before)

    def step(self, text: str) -> None:
        """Says that a new piece of work begins."""
        self._now = text
        self.line(text)
        if self._bars is not None:
            for task in self._bars.tasks:
                self._bars.update(task.id, total=task.total or 1, completed=task.total or 1)
            self._bars.add_task(text, total=None, note="")

    def at(self, done: int, total: int, note: str, now: str) -> None:
        """Moves the bar of the piece of work under way; `now` is what SIGUSR1 writes."""
        self._now = now
        if self._bars is not None:
            self._bars.update(self._bars.tasks[-1].id, completed=done, total=total, note=note)

    def line(self, text: str) -> None:
        """Says what was done, where there is no bar."""
        if self._plain:
            say(progress, _timed(text))


def _timed(text: str) -> str:
    return f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}"


def _write(text: str) -> None:
    """Writes a line past Python's streams: a signal may come while one is written to, which would refuse it."""
    line = f"{printable(_timed(text))}\n".encode(getattr(sys.stderr, "encoding", None) or "utf-8", "backslashreplace")
    with contextlib.suppress(OSError):  # stderr is closed
        os.write(2, line)
