"""What the commands of `pepnet-infer bench` share: options, progress, and where results are written."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from pepnet_infer.cli.output import progress

if TYPE_CHECKING:
    from pepnet_infer.bench.report import Page, Result


PRESET = "preset:"


JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]


HtmlFile = Annotated[Path | None, typer.Option("--html", help="Write a page with tables and picture to this file.")]


PngFile = Annotated[Path | None, typer.Option("--png", help="Write the picture to this file.")]


MarkdownFile = Annotated[Path | None, typer.Option("--markdown", help="Write the tables to this file.")]


Threads = Annotated[int | None, typer.Option(min=1, help="Threads of every peer; default: what this process may use.")]


def write_result(
    result: Result,
    page: Page,
    json_file: Path | None,
    html_file: Path | None,
    png_file: Path | None = None,
    markdown_file: Path | None = None,
) -> None:
    """Writes a result to the files that were asked for, and its tables to stdout."""
    from pepnet_infer.bench.report import write_whole

    for path, content in (
        (json_file, result.to_json()),
        (html_file, page.html()),
        (png_file, page.picture),
        (markdown_file, page.markdown()),
    ):
        if path is not None and content is not None:
            write_whole(path, content)
            progress.print(f"wrote {path}", markup=False, highlight=False)
    console = Console() if sys.stdout.isatty() else Console(width=120)  # a pipe has no width to keep to
    console.print(page.lead, markup=False, highlight=False)
    for table in page.tables:
        console.print(table.rich())


class Steps:
    """Shows what is being done: one line that changes on a terminal, a line for each new step elsewhere.

    Nothing refreshes by itself: a thread that draws would disturb what is measured.
    """

    def __init__(self) -> None:
        self._live = Live(console=progress, auto_refresh=False, transient=True)
        self._drawn = 0.0
        self._last = ""

    def __enter__(self) -> Steps:
        if progress.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, step: str) -> None:
        """Says what is done from here on; what follows a semicolon is a detail, shown on a terminal only."""
        text, _, detail = step.partition("; ")
        if not progress.is_terminal:
            if text != self._last:
                progress.print(text, markup=False, highlight=False)
        elif text != self._last or time.monotonic() - self._drawn > 0.5:
            self._live.update(Text(f"{text} {detail}"), refresh=True)
            self._drawn = time.monotonic()
        self._last = text


def make_preset_bundle(name: str, folder: Path, seed: int, rows: int | None) -> Path:
    """Exports `preset:NAME` below a folder and returns the bundle's path. rows: of each table, None: the preset's."""
    for package in ("onnx", "onnxscript", "onnxsim"):
        need(package, "export")
    from pepnet_infer.export.bundle.presets import TABLE_ROWS, make_preset
    from pepnet_infer.export.bundle.write_bundle import write_bundle

    progress.print(f"making {name}", markup=False, highlight=False)
    checkpoint = make_preset(name.removeprefix(PRESET), seed=seed, table_rows=rows or TABLE_ROWS)
    return write_bundle(checkpoint, folder / "bundle", seed=seed).path


def usage_error(option: str, message: str) -> typer.BadParameter:
    """Returns the error of a wrong option, to be raised: the command ends with exit code 2."""
    return typer.BadParameter(message, param_hint=option)


def need(package: str, extra: str) -> None:
    """Raises a usage error that names the extra to install when a package is not there."""
    if find_spec(package) is None:
        raise typer.BadParameter(f"this needs {package}: pip install 'pepnet-infer[{extra}]'")


def peer_names(text: str) -> list[str]:
    """Returns the names in a list with commas. Raises a usage error for one that comes twice."""
    names = [name.strip() for name in text.split(",")]
    if len(set(names)) != len(names):
        raise usage_error("--peers", f"expected each name once, got {text!r}")
    return names


def integers(option: str, text: str) -> list[int]:
    """Returns the numbers in a list with commas. Raises a usage error unless they are positive and distinct."""
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if min(numbers) < 1 or len(set(numbers)) != len(numbers):
        raise usage_error(option, f"expected distinct positive integers with commas, got {text!r}")
    return numbers


def public_name(bundle: str) -> str:
    """What a bundle is called in a published result: a preset's name, or the last part of a path."""
    return bundle if bundle.startswith(PRESET) else Path(bundle).resolve().name
