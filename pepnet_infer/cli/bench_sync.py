"""`pepnet-infer bench sync`: what following costs those who score, and how fresh they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pepnet_infer.cli.output import as_path, progress

if TYPE_CHECKING:
    from pepnet_infer.rows.cache.config import Policy


def sync(
    bundle: Annotated[Path, typer.Argument(parser=as_path, metavar="BUNDLE", help="The bundle's directory.")],
    rows_per_s: Annotated[int, typer.Option(min=1, help="Rows that change in a second.")] = 100_000,
    delta_s: Annotated[float, typer.Option(min=0.01, help="Seconds between two deltas.")] = 0.25,
    dense_every: Annotated[int, typer.Option(min=0, help="Dense weights come with every Nth delta; 0: never.")] = 20,
    threads: Annotated[int, typer.Option(min=1, help="Threads that score.")] = 2,
    seconds: Annotated[float, typer.Option(min=6, help="Measure for this long.")] = 30.0,
    batch: Annotated[int, typer.Option(min=1, help="Rows of a call.")] = 256,
    load: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the time that each thread scores.")] = 1.0,
    share: Annotated[float, typer.Option(min=0.01, max=1, help="Of one CPU, that the follower may take.")] = 0.15,
    policy: Annotated[str, typer.Option(help="The cache's policy.")] = "gset",
    seed: Annotated[int, typer.Option(min=0, help="Seed of requests and rows.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page with tables and picture here.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Write the picture (PNG) to this file.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write the tables to this file.")] = None,
) -> None:
    """Publish changed rows and weights from another process while an engine follows and threads score."""
    from pepnet_infer.bench.sync import SyncOptions, measure_sync
    from pepnet_infer.bench.sync_page import noise, sync_page
    from pepnet_infer.cli.bench_output import Steps, need, public_name, usage_error, write_result

    if round(rows_per_s * delta_s) < 1:
        raise usage_error("--delta-s", f"expected at least one row a delta, got {rows_per_s * delta_s:g}")
    if html_file or plot_file:
        need("matplotlib", "bench")
    command = f"pepnet-infer bench sync {public_name(str(bundle))} --rows-per-s {rows_per_s} --delta-s {delta_s:g}"
    command += f" --dense-every {dense_every} --threads {threads} --seconds {seconds:g} --batch {batch}"
    command += f" --load {load:g} --share {share:g} --policy {policy}" + (f" --seed {seed}" if seed else "")
    asked = (rows_per_s, delta_s, dense_every, threads, seconds, batch, load, share)
    options = SyncOptions(*asked, cast("Policy", policy), seed)
    with Steps() as say:
        result = measure_sync(bundle, public_name(str(bundle)), command, options, say)
    progress.print(noise(result.data), markup=False, highlight=False)
    picture = None
    if html_file or plot_file:
        from pepnet_infer.bench.sync_figure import sync_figure

        picture = sync_figure(result)
    write_result(result, sync_page(result, picture), json_file, html_file, plot_file, markdown_file)
