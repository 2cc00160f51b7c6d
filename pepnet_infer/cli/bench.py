"""`pepnet-infer bench`: latency beside its peers, and parquet scoring's speed and memory."""

from __future__ import annotations

import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from pepnet_infer.cli.bench_cache import cache
from pepnet_infer.cli.bench_cache_speed import cache_speed
from pepnet_infer.cli.bench_sync import sync
from pepnet_infer.cli.output import as_path, progress
from pepnet_infer.cli.score import OnBadRow
from pepnet_infer.cpu import available_threads

if TYPE_CHECKING:
    from pepnet_infer.bench.report import Page, Result

bench = typer.Typer(help="Measure latency beside other engines, and scoring's speed and memory.", no_args_is_help=True)
bench.command()(cache)
bench.command()(cache_speed)
bench.command()(sync)

_PRESET = "preset:"


JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", help="Write a page with tables and picture to this file.")]
PngFile = Annotated[Path | None, typer.Option("--png", help="Write the picture to this file.")]
MarkdownFile = Annotated[Path | None, typer.Option("--markdown", help="Write the tables to this file.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of every peer; default: what this process may use.")]


@bench.command()
def latency(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle, or preset:NAME.")],
    batch: Annotated[str, typer.Option(help="Batch sizes, with commas between.")] = "1,64,1024",
    peers: Annotated[str, typer.Option(help="all, or names with commas between.")] = "all",
    baseline: Annotated[str | None, typer.Option(help="The peer to compare with; default onnxruntime.")] = None,
    threads: Threads = None,
    runs: Annotated[int, typer.Option(min=30, help="Timed calls of every peer, at least.")] = 30,
    seconds: Annotated[float, typer.Option(min=0, help="Go on measuring each batch size for this long.")] = 10.0,
    cold: Annotated[bool, typer.Option("--cold", help="No untimed calls before each timed one.")] = False,
    end_to_end: Annotated[bool, typer.Option(help="Measure whole requests too, ids in.")] = True,
    rows_per_table: Annotated[int | None, typer.Option(min=1, help="Rows of each table; presets only.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of inputs, requests and preset weights.")] = 0,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
    png_file: PngFile = None,
    markdown_file: MarkdownFile = None,
) -> None:
    """Compare the dense part with its peers on the same bundle and rows, and time whole requests."""
    _need("torch", "export")
    if html_file or png_file:
        _need("matplotlib", "bench")
    from pepnet_infer.bench.latency import Plan
    from pepnet_infer.bench.latency_page import latency_page, noise
    from pepnet_infer.bench.latency_run import LatencyOptions, measure_latency
    from pepnet_infer.bench.peers import BASELINE, all_peers
    from pepnet_infer.bundle import Bundle

    known = [peer.name for peer in all_peers()]
    names = known if peers == "all" else _names(peers)
    for name in names:
        if name not in known:
            raise _usage("--peers", f"expected some of {', '.join(known)}, got {name!r}")
    if baseline is not None and baseline not in names:
        raise _usage("--baseline", f"expected one of the peers {', '.join(names)}, got {baseline!r}")
    if rows_per_table is not None and not bundle.startswith(_PRESET):
        raise _usage("--rows-per-table", f"expected it with preset:NAME only, got {bundle}, whose tables are full")
    sizes = _integers("--batch", batch)
    options = LatencyOptions(
        batch_sizes=sizes,
        peers=names,
        required=peers != "all",
        baseline=baseline or (BASELINE if BASELINE in names else names[0]),
        threads=threads or available_threads(),
        plan=Plan(runs, seconds, warm_calls=0, warm_s=0.0) if cold else Plan(runs, seconds),
        end_to_end=end_to_end,
        seed=seed,
    )
    command = f"pepnet-infer bench latency {_public(bundle)} --batch {batch} --threads {options.threads}"
    command += f" --runs {runs} --seconds {seconds:g}"
    for flag, on in (
        (f" --peers {peers}", peers != "all"),
        (f" --baseline {baseline}", baseline is not None),
        (" --cold", cold),
        (" --no-end-to-end", not end_to_end),
        (f" --rows-per-table {rows_per_table}", rows_per_table is not None),
        (f" --seed {seed}", seed != 0),
    ):
        command += flag if on else ""
    with tempfile.TemporaryDirectory(prefix="pepnet-bench-") as folder, _Steps() as say:
        path = _preset(bundle, Path(folder), seed, rows_per_table) if bundle.startswith(_PRESET) else Path(bundle)
        result = measure_latency(Bundle.open(path), _public(bundle), command, options, say)
    progress.print(noise(result.data), markup=False)
    picture = None
    if html_file or png_file:
        from pepnet_infer.bench.latency_figure import latency_figure

        picture = latency_figure(result)
    _write(result, latency_page(result, picture), json_file, html_file, png_file, markdown_file)


@bench.command()
def offline(
    bundle: Annotated[Path, typer.Argument(parser=as_path, metavar="BUNDLE", help="The bundle's directory.")],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Parquet files, folders or patterns.")],
    scale: Annotated[str, typer.Option(help="How many times over the input is scored, with commas.")] = "1,10",
    runs: Annotated[int, typer.Option(min=1, help="Runs of each; rows/s is their median.")] = 1,
    threads: Threads = None,
    on_bad_row: Annotated[OnBadRow, typer.Option(help="Stop at a bad row, or give it null scores.")] = OnBadRow.raise_,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
    markdown_file: MarkdownFile = None,
) -> None:
    """Measure parquet scoring: rows a second, and peak memory when the input is so many times as long."""
    from pepnet_infer.bench.offline import measure_offline, offline_page

    scales = _integers("--scale", scale)
    number = threads or available_threads()
    names = " ".join(Path(path).name for path in inputs)
    command = f"pepnet-infer bench offline {_public(str(bundle))} {names} --scale {scale} --threads {number}"
    command += f" --runs {runs} --on-bad-row {on_bad_row.value}"
    with _Steps() as say:
        result = measure_offline(
            bundle,
            inputs,
            command,
            threads=number,
            scales=scales,
            runs=runs,
            on_bad_row=on_bad_row.value,
            say=say,
        )
    _write(result, offline_page(result), json_file, html_file, markdown_file=markdown_file)


def _write(
    result: Result,
    page: Page,
    json_file: Path | None,
    html_file: Path | None,
    png_file: Path | None = None,
    markdown_file: Path | None = None,
) -> None:
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


class _Steps:
    """Shows what is being done: one line that changes on a terminal, a line for each new step elsewhere.

    Nothing refreshes by itself: a thread that draws would disturb what is measured.
    """

    def __init__(self) -> None:
        self._live = Live(console=progress, auto_refresh=False, transient=True)
        self._drawn = 0.0
        self._last = ""

    def __enter__(self) -> _Steps:
        if progress.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, step: str) -> None:
        text, _, detail = step.partition("; ")
        if not progress.is_terminal:
            if text != self._last:
                progress.print(text, markup=False, highlight=False)
        elif text != self._last or time.monotonic() - self._drawn > 0.5:
            self._live.update(Text(f"{text} {detail}"), refresh=True)
            self._drawn = time.monotonic()
        self._last = text


def _preset(name: str, folder: Path, seed: int, rows: int | None) -> Path:
    for package in ("onnx", "onnxscript", "onnxsim"):
        _need(package, "export")
    from pepnet_infer.export.presets import TABLE_ROWS, make_preset
    from pepnet_infer.export.write_bundle import write_bundle

    progress.print(f"making {name}", markup=False, highlight=False)
    checkpoint = make_preset(name.removeprefix(_PRESET), seed=seed, table_rows=rows or TABLE_ROWS)
    return write_bundle(checkpoint, folder / "bundle", seed=seed).path


def _usage(option: str, message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint=option)


def _need(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise typer.BadParameter(f"this needs {package}: pip install 'pepnet-infer[{extra}]'")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if len(set(names)) != len(names):
        raise _usage("--peers", f"expected each name once, got {text!r}")
    return names


def _integers(option: str, text: str) -> list[int]:
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if min(numbers) < 1 or len(set(numbers)) != len(numbers):
        raise _usage(option, f"expected distinct positive integers with commas, got {text!r}")
    return numbers


def _public(bundle: str) -> str:
    """What a bundle is called in a published result: a preset's name, or the last part of a path."""
    return bundle if bundle.startswith(_PRESET) else Path(bundle).resolve().name
