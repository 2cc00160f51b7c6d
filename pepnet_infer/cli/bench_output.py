"""What the commands of `pepnet-infer bench` share: progress, the command to type again, and where results go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pepnet_infer.cli.output import progress, table_width
from pepnet_infer.errors import PepnetError

if TYPE_CHECKING:
    from pepnet_infer.bench.harness.report import Report

PRESET = "preset:"


def _can_draw(png_file: Path | None) -> Path | None:
    """Ends a command at its beginning that would find no matplotlib after minutes of measuring."""
    if png_file is not None:
        import matplotlib  # noqa: F401
    return png_file


JsonFile = Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")]
MarkdownFile = Annotated[Path | None, typer.Option("--markdown", help="Write the page to this file.")]
PngFile = Annotated[Path | None, typer.Option("--png", callback=_can_draw, help="Write the picture to this file.")]
Quick = Annotated[bool, typer.Option("--quick", help="A first look, in under 20 seconds.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of every peer; default: what this process may use.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all that is drawn.")]


def say(step: str) -> None:
    """Prints a step of a measurement to stderr when it begins."""
    progress.print(step, markup=False, highlight=False)


def write(report: Report, json_file: Path | None, markdown_file: Path | None, png_file: Path | None = None) -> None:
    """Prints the tables to stdout, and writes the files that were asked for."""
    from pepnet_infer.storage.atomic import write_file

    command = " ".join(["pepnet-infer", *map(public_name, sys.argv[1:])])
    for path, content in (
        (json_file, lambda: report.to_json(command).encode()),
        (png_file, report.picture),
        (markdown_file, lambda: report.markdown(command, png_file.name if png_file else None).encode()),
    ):
        if path is None or content is None:
            continue
        try:
            write_file(path, content())
        except OSError as error:
            raise PepnetError(f"{path}: cannot write: {error}") from error
        say(f"wrote {path}")
    print(report.lead, *(table.text(table_width()) for table in report.tables), sep="\n\n")


def public_name(value: object) -> str:
    """What a path, bundle or data set is called in a published result: no folder of this machine."""
    kind, _, rest = str(value).partition(":")
    if rest and kind == "kuairand":
        return f"{kind}:DIR"
    return Path(str(value)).resolve().name if isinstance(value, Path) or "/" in str(value) else str(value)


def usage_error(option: str, message: str) -> typer.BadParameter:
    """Returns the error of a wrong option, to be raised: the command ends with exit code 2."""
    return typer.BadParameter(message, param_hint=option)


def chosen(option: str, text: str, known: list[str]) -> list[str]:
    """Returns the names in a list with commas, or all. Raises a usage error for one twice or not known."""
    names = known if text == "all" else [name.strip() for name in text.split(",")]
    if len(set(names)) != len(names):
        raise usage_error(option, f"expected each name once, got {text!r}")
    for name in names:
        if name not in known:
            raise usage_error(option, f"expected some of {', '.join(known)}, got {name!r}")
    return names


def integers(option: str, text: str) -> list[int]:
    """Returns the numbers in a list with commas. Raises a usage error unless they are positive and distinct."""
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if min(numbers) < 1 or len(set(numbers)) != len(numbers):
        raise usage_error(option, f"expected distinct positive integers with commas, got {text!r}")
    return numbers
