"""`pepnet-infer bench cache-speed`: the cache beside a plain gather, other caches, and itself on more threads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pepnet_infer.cli.output import progress

#: Untimed calls before each timed one for so long: then the last-level cache holds what it would in a busy server.
WARM_S = 0.015


def cache_speed(
    table_mb: Annotated[str, typer.Option(help="Sizes of the table in MiB, with commas between.")] = "64,800",
    rows: Annotated[int, typer.Option(min=1, help="Ids of a call.")] = 20480,
    dim: Annotated[int, typer.Option(min=1, help="Numbers of a row.")] = 40,
    runs: Annotated[int, typer.Option(min=30, help="Timed calls of every contender, at least.")] = 30,
    seconds: Annotated[float, typer.Option(min=0, help="Go on measuring lookups of each table for this long.")] = 5.0,
    slice_ms: Annotated[float, typer.Option(min=5, help="Length of a slice with threads.")] = 100.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of rows, ids and scores.")] = 0,
    peers_library: Annotated[
        Path | None,
        typer.Option(envvar="PEPNET_BENCH_PEERS", help="The C++ peers, as `make bench-cache` builds them."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page with all tables to this file.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write the tables to this file.")] = None,
) -> None:
    """Compare the embedding cache with a gather, hash maps and other caches, on one thread and on two."""
    from pepnet_infer.bench.cache_speed import CacheSpeedOptions, measure_cache_speed
    from pepnet_infer.bench.cache_speed_page import cache_speed_page
    from pepnet_infer.bench.latency import Plan
    from pepnet_infer.cli.bench_output import Steps, integers, usage_error, write_result

    if peers_library is None:
        expected = "expected the library that `make bench-cache` builds, here or in PEPNET_BENCH_PEERS"
        raise usage_error("--peers-library", f"{expected}, got none")
    sizes = integers("--table-mb", table_mb)
    for mb in sizes:
        if (mb << 20) // (dim * 4) < rows:
            raise usage_error("--table-mb", f"expected at least {rows} rows of {dim} float32, got {mb} MiB")
    command = f"pepnet-infer bench cache-speed --rows {rows} --dim {dim} --table-mb {table_mb}"
    command += f" --runs {runs} --seconds {seconds:g} --slice-ms {slice_ms:g}"
    command += f" --seed {seed}" if seed else ""
    options = CacheSpeedOptions(
        peers=peers_library,
        tables_mb=sizes,
        rows=rows,
        dim=dim,
        plan=Plan(runs, seconds, warm_s=WARM_S),
        slice_s=slice_ms / 1e3,
        seed=seed,
    )
    with Steps() as say:
        result = measure_cache_speed(command, options, say)
    page = cache_speed_page(result)
    progress.print(page.lead, markup=False, highlight=False)
    write_result(result, page, json_file, html_file, markdown_file=markdown_file)
