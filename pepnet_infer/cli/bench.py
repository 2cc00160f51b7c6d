"""`pepnet-infer bench`: latency beside its peers, parquet scoring, the cache's policies and speed, following a log."""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pepnet_infer.cli.output import as_path, progress, say, table_width
from pepnet_infer.errors import PepnetError
from pepnet_infer.parquet.run import OnBadRow
from pepnet_infer.process.cpu import available_threads

if TYPE_CHECKING:
    from pepnet_infer.bench.harness.report import Report

bench = typer.Typer(help="Measure latency beside other engines, scoring, the cache and sync.", no_args_is_help=True)
PRESET = "preset:"
#: Prints a step of a measurement to stderr when it begins.
step = partial(say, progress)
#: Options that name a file of this machine.
_FILES = ("--json", "--markdown", "--png", "--peers-library")


def _can_draw(png_file: Path | None) -> Path | None:
    """Ends a command at its beginning that would find no matplotlib after minutes of measuring."""
    if png_file is not None:
        _need("matplotlib")
    return png_file


def _need(*packages: str) -> None:
    """Raises ModuleNotFoundError for a package that is not there, before the work that would come to import it."""
    for package in packages:
        if find_spec(package) is None:
            raise ModuleNotFoundError(name=package)


BundleFolder = Annotated[Path, typer.Argument(parser=as_path, metavar="BUNDLE", help="The bundle's directory.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")]
MarkdownFile = Annotated[Path | None, typer.Option("--markdown", help="Write the page to this file.")]
PngFile = Annotated[Path | None, typer.Option("--png", callback=_can_draw, help="Write the picture to this file.")]
Quick = Annotated[bool, typer.Option("--quick", help="A first look, in under 20 seconds.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of every peer; default: what this process may use.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all that is drawn.")]


@bench.callback(invoke_without_command=True)
def _first_look(
    quick: Annotated[
        str | None, typer.Option(metavar="BUNDLE", help="A first look, in under 20 s: latency BUNDLE --quick.")
    ] = None,
) -> None:
    if quick is not None:
        latency(quick, quick=True)
        raise typer.Exit


@bench.command()
def latency(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle, or preset:NAME.")],
    batch: Annotated[
        str | None, typer.Option(help="Batch sizes, with commas; default 1,64,1024, with --quick 1,64,256.")
    ] = None,
    peers: Annotated[str, typer.Option(help="all, or names with commas between.")] = "all",
    peer: Annotated[list[str] | None, typer.Option(metavar="MODULE:BUILD", help="Your own beside them.")] = None,
    threads: Threads = None,
    runs: Annotated[int, typer.Option(min=30, help="Timed calls of every peer, at least.")] = 30,
    seconds: Annotated[float, typer.Option(min=0, help="Go on measuring each batch size for this long.")] = 10.0,
    quick: Quick = False,
    end_to_end: Annotated[bool, typer.Option(help="Measure whole requests too, ids in.")] = True,
    rows_per_table: Annotated[int | None, typer.Option(min=1, help="Rows of each table; presets only.")] = None,
    seed: Seed = 0,
    json_file: JsonFile = None,
    markdown_file: MarkdownFile = None,
    png_file: PngFile = None,
) -> None:
    """Compare the dense part with its peers on the same bundle and rows, and time whole requests."""
    preset, everyone = bundle.startswith(PRESET), peers == "all"
    _need("torch", *(("onnx", "onnxscript", "onnxsim") if preset else ()))
    from pepnet_infer.bench.harness.interleave import Plan
    from pepnet_infer.bench.latency.peers import PEERS, QUICK
    from pepnet_infer.bench.latency.run import LatencyOptions, measure_latency
    from pepnet_infer.bundle.bundle import Bundle

    if rows_per_table is not None and not preset:
        raise usage_error("--rows-per-table", f"expected it with preset:NAME only, got {bundle}, whose tables are full")
    names = QUICK if quick and everyone else chosen("--peers", peers, list(PEERS))
    options = LatencyOptions(
        batch_sizes=integers("--batch", batch or ("1,64,256" if quick else "1,64,1024")),
        peers=names,
        threads=threads or available_threads(),
        plan=Plan(10, 1.0, warm_s=0.01) if quick else Plan(runs, seconds),
        own=peer or (),
        required=() if everyone else names,
        end_to_end=end_to_end,
        quick=quick,
        seed=seed,
    )
    with tempfile.TemporaryDirectory(prefix="pepnet-bench-") as folder:
        if preset:
            from pepnet_infer.export.bundle.presets import TABLE_ROWS, make_preset
            from pepnet_infer.export.bundle.write_bundle import write_bundle

            step(f"making {bundle}")
            checkpoint = make_preset(bundle.removeprefix(PRESET), seed, rows_per_table or TABLE_ROWS)
            opened = write_bundle(checkpoint, Path(folder) / "bundle", seed=seed)
        else:
            opened = Bundle.open(Path(bundle))
        report = measure_latency(opened, public_name(bundle), options, step)
    write(report, json_file, markdown_file, png_file)


@bench.command()
def offline(
    bundle: BundleFolder,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Parquet files, folders or patterns.")],
    scale: Annotated[str, typer.Option(help="How many times over the input is scored, with commas.")] = "1,10",
    runs: Annotated[int, typer.Option(min=1, help="Runs of each; rows/s is their median.")] = 1,
    threads: Threads = None,
    on_bad_row: Annotated[OnBadRow, typer.Option(help="Stop at a bad row, or give it null scores.")] = "raise",
    json_file: JsonFile = None,
    markdown_file: MarkdownFile = None,
) -> None:
    """Measure parquet scoring: rows a second, and peak memory when the input is so many times as long."""
    from pepnet_infer.bench.parquet.offline import measure_offline

    scales, number = integers("--scale", scale), threads or available_threads()
    report = measure_offline(bundle, inputs, threads=number, scales=scales, runs=runs, on_bad_row=on_bad_row, say=step)
    write(report, json_file, markdown_file)


@bench.command()
def sync(
    bundle: BundleFolder,
    rows_per_s: Annotated[
        int | None, typer.Option(min=1, help="Rows that change in a second; default: what the bundle can bear.")
    ] = None,
    delta_s: Annotated[float, typer.Option(min=0.01, help="Seconds between two deltas.")] = 0.25,
    dense_every: Annotated[int, typer.Option(min=0, help="Dense weights come with every Nth delta; 0: never.")] = 20,
    threads: Annotated[int, typer.Option(min=1, help="Threads that score.")] = 2,
    seconds: Annotated[float, typer.Option(min=6, help="Measure for this long.")] = 30.0,
    quick: Quick = False,
    batch: Annotated[int, typer.Option(min=1, help="Rows of a call.")] = 256,
    load: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the time that each thread scores.")] = 1.0,
    share: Annotated[float, typer.Option(min=0.01, max=1, help="Of one CPU, that the follower may take.")] = 0.15,
    json_file: JsonFile = None,
    markdown_file: MarkdownFile = None,
    png_file: PngFile = None,
) -> None:
    """Publish changed rows and weights from another process while an engine follows and threads score."""
    from pepnet_infer.bench.sync.publisher import SyncOptions
    from pepnet_infer.bench.sync.run import measure_sync

    if rows_per_s is not None and round(rows_per_s * delta_s) < 1:
        raise usage_error("--delta-s", f"expected at least one row a delta, got {rows_per_s * delta_s:g}")
    time = 6.0 if quick else seconds
    options = SyncOptions(rows_per_s, delta_s, dense_every, threads, time, batch, load, share)
    write(measure_sync(bundle, public_name(bundle), options, step), json_file, markdown_file, png_file)


@bench.command()
def cache_speed(
    table_mb: Annotated[str, typer.Option(help="Sizes of the table in MiB, with commas between.")] = "64,800",
    rows: Annotated[int, typer.Option(min=1, help="Ids of a call.")] = 20480,
    dim: Annotated[int, typer.Option(min=1, help="Numbers of a row.")] = 40,
    runs: Annotated[int, typer.Option(min=30, help="Timed calls of every contender, at least.")] = 30,
    seconds: Annotated[float, typer.Option(min=0, help="Go on measuring lookups of each table for this long.")] = 5.0,
    seed: Seed = 0,
    peers_library: Annotated[
        Path | None,
        typer.Option(envvar="PEPNET_BENCH_PEERS", help="The C++ peers, as `make bench-cache` builds them."),
    ] = None,
    json_file: JsonFile = None,
    markdown_file: MarkdownFile = None,
) -> None:
    """Compare look-ups in the embedding cache with a gather and a textbook LRU; time updates, readers and misses."""
    from pepnet_infer.bench.cache.speed import measure_cache_speed
    from pepnet_infer.bench.harness.interleave import Plan

    if peers_library is None:
        expected = "expected the library that `make bench-cache` builds, here or in PEPNET_BENCH_PEERS"
        raise usage_error("--peers-library", f"{expected}, got none")
    sizes = integers("--table-mb", table_mb)
    for mb in sizes:
        if (mb << 20) // (dim * 4) < rows:
            raise usage_error("--table-mb", f"expected at least {rows} rows of {dim} float32, got {mb} MiB")
    # Untimed calls for so long: then the last-level cache holds what it would in a busy server.
    plan = Plan(runs, seconds, warm_s=0.015)
    write(measure_cache_speed(peers_library, sizes, rows, dim, plan, seed, step), json_file, markdown_file)


@bench.command()
def cache(
    trace: Annotated[
        Path | None, typer.Option(help="A parquet file: key, and if there are time (s) and positive (bool).")
    ] = None,
    capacity: Annotated[
        str, typer.Option(help="With commas between: rows, or shares of the ids (of a bundle's rows) like 10%.")
    ] = "1%,5%,10%,20%,40%",
    policies: Annotated[str, typer.Option(help="all, or names with commas between.")] = "all",
    label_delay: Annotated[
        float | None, typer.Option(help="When labels are known: seconds (default 60; 600), or accesses (1000).")
    ] = None,
    quality: Annotated[
        list[Path] | None,
        typer.Option(metavar="BUNDLE", help="Instead of a trace: bundles, one a seed; needs --data and --test-day."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="kuairand:DIR|synthetic[:ROWS]", help="The log they are of.")
    ] = None,
    test_day: Annotated[int | None, typer.Option(help="The first day that they were not trained on.")] = None,
    json_file: JsonFile = None,
    markdown_file: MarkdownFile = None,
    png_file: PngFile = None,
) -> None:
    """Replay a trace of ids, or a log and its model, through every policy and MIN, which knows the future."""
    from pepnet_infer.bench.cache.policies import measure_policies, read_trace
    from pepnet_infer.rows.cache.config import POLICIES

    if (trace is None) == (not quality):
        got = "both" if trace else "none"
        raise usage_error("--trace", f"expected either a parquet file or --quality BUNDLE, got {got}")
    wanted = chosen("--policies", policies, list(POLICIES))
    kept = [policy for policy in POLICIES if policy in wanted]
    capacities = [part.strip() for part in capacity.split(",")]
    if len(set(capacities)) != len(capacities):
        raise usage_error("--capacity", f"expected each capacity once, got {capacity!r}")
    if trace is not None:
        report = measure_policies(read_trace(trace), capacities, kept, label_delay, step)
    else:
        if data is None or test_day is None:
            raise usage_error("--quality", "expected --data and --test-day with it")
        from pepnet_infer.bench.cache.quality import measure_quality
        from pepnet_infer.export.data.source import open_source

        delay = 600.0 if label_delay is None else label_delay
        report = measure_quality(quality or [], open_source(data), test_day, capacities, kept, delay, step)
    write(report, json_file, markdown_file, png_file)


def write(report: Report, json_file: Path | None, markdown_file: Path | None, png_file: Path | None = None) -> None:
    """Prints the tables to stdout, and writes the files that were asked for."""
    from pepnet_infer.storage.atomic import write_file

    command = _command_line()
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
        step(f"wrote {path}")
    print(report.lead, *(table.text(table_width()) for table in report.tables), sep="\n\n")


def _command_line() -> str:
    """Returns what was typed, without the files and folders of this machine."""
    words, given = ["pepnet-infer"], iter(sys.argv[1:])
    for word in given:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if option not in _FILES:
            words.append(option + equals + public_name(value))
        elif not equals:
            next(given)
    return " ".join(words)


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
