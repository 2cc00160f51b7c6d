"""What the commands of `pepnet-infer bench` share: progress, the command to type again, and where results go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.text import Text

from pepnet_infer.cli.output import progress, table_width
from pepnet_infer.errors import PepnetError

if TYPE_CHECKING:
    from pepnet_infer.bench.harness.report import Report

PRESET = "preset:"

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")]
MarkdownFile = Annotated[Path | None, typer.Option("--markdown", help="Write the page to this file.")]
PngFile = Annotated[Path | None, typer.Option("--png", help="Write the picture to this file.")]
Quick = Annotated[bool, typer.Option("--quick", help="A first look, in under 20 seconds.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of every peer; default: what this process may use.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all that is drawn.")]
_FILES = ("json_file", "markdown_file", "png_file", "peers_library")


class Steps:
    """Progress on stderr: the current step, on a terminal with its details as they change."""

    def __init__(self) -> None:
        self._live = Live(console=progress, transient=True, auto_refresh=False)
        self._last, self._drawn = "", 0.0

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

    @classmethod
    @contextmanager
    def shown(cls) -> Iterator[Steps]:
        """Shows steps while the block runs."""
        steps = cls()
        with steps._live:
            yield steps


def write(
    context: typer.Context,
    report: Report,
    json_file: Path | None,
    markdown_file: Path | None,
    png_file: Path | None = None,
) -> None:
    """Prints the tables to stdout, and writes the files that were asked for."""
    from pepnet_infer.storage.atomic import write_file

    command = command_line(context)
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
        progress.print(f"wrote {path}", markup=False, highlight=False)
    print(report.lead, *(table.text(table_width()) for table in report.tables), sep="\n\n")


def command_line(context: typer.Context) -> str:
    """Returns what was typed, without what is written and without the folders of this machine."""
    words = ["pepnet-infer", "bench", *([context.command.name] if context.command.name not in (None, "bench") else [])]
    for parameter in context.command.params:
        name, source = parameter.name or "", context.get_parameter_source(parameter.name or "")
        if name in _FILES or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        flag = parameter.opts[:1] if parameter.param_type_name == "option" else []
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, bool):
                words.append((parameter.opts if one else parameter.secondary_opts)[0])
            else:
                words += [*flag, public_name(getattr(one, "value", one))]
    return " ".join(words)


def public_name(value: object) -> str:
    """What a path, bundle or data set is called in a published result: no folder of this machine."""
    kind, _, rest = str(value).partition(":")
    if rest and kind == "kuairand":
        return f"{kind}:DIR"
    return Path(str(value)).resolve().name if isinstance(value, Path) or "/" in str(value) else str(value)


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
