"""`pepnet-infer bench`: latency beside its peers, and parquet scoring's speed and memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pepnet_infer.cli.bench_cache import cache
from pepnet_infer.cli.bench_cache_speed import cache_speed
from pepnet_infer.cli.bench_output import (
    PRESET,
    HtmlFile,
    JsonFile,
    MarkdownFile,
    PngFile,
    Steps,
    Threads,
    integers,
    make_preset_bundle,
    need,
    peer_names,
    public_name,
    usage_error,
    write_result,
)
from pepnet_infer.cli.bench_sync import sync
from pepnet_infer.cli.output import as_path, progress
from pepnet_infer.cli.score import OnBadRow
from pepnet_infer.process.cpu import available_threads

if TYPE_CHECKING:
    pass

bench = typer.Typer(help="Measure latency beside other engines, and scoring's speed and memory.", no_args_is_help=True)
bench.command()(cache)
bench.command()(cache_speed)
bench.command()(sync)


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
    need("torch", "export")
    if html_file or png_file:
        need("matplotlib", "bench")
    from pepnet_infer.bench.latency import Plan
    from pepnet_infer.bench.latency_page import latency_page, noise
    from pepnet_infer.bench.latency_run import LatencyOptions, measure_latency
    from pepnet_infer.bench.peers import BASELINE, all_peers
    from pepnet_infer.bundle.bundle import Bundle

    known = [peer.name for peer in all_peers()]
    names = known if peers == "all" else peer_names(peers)
    for name in names:
        if name not in known:
            raise usage_error("--peers", f"expected some of {', '.join(known)}, got {name!r}")
    if baseline is not None and baseline not in names:
        raise usage_error("--baseline", f"expected one of the peers {', '.join(names)}, got {baseline!r}")
    if rows_per_table is not None and not bundle.startswith(PRESET):
        raise usage_error("--rows-per-table", f"expected it with preset:NAME only, got {bundle}, whose tables are full")
    sizes = integers("--batch", batch)
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
    command = f"pepnet-infer bench latency {public_name(bundle)} --batch {batch} --threads {options.threads}"
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
    with tempfile.TemporaryDirectory(prefix="pepnet-bench-") as folder, Steps() as say:
        path = Path(bundle)
        if bundle.startswith(PRESET):
            path = make_preset_bundle(bundle, Path(folder), seed, rows_per_table)
        result = measure_latency(Bundle.open(path), public_name(bundle), command, options, say)
    progress.print(noise(result.data), markup=False)
    picture = None
    if html_file or png_file:
        from pepnet_infer.bench.latency_figure import latency_figure

        picture = latency_figure(result)
    write_result(result, latency_page(result, picture), json_file, html_file, png_file, markdown_file)


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

    scales = integers("--scale", scale)
    number = threads or available_threads()
    names = " ".join(Path(path).name for path in inputs)
    command = f"pepnet-infer bench offline {public_name(str(bundle))} {names} --scale {scale} --threads {number}"
    command += f" --runs {runs} --on-bad-row {on_bad_row.value}"
    with Steps() as say:
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
    write_result(result, offline_page(result), json_file, html_file, markdown_file=markdown_file)
