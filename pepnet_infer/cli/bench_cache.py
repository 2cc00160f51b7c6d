"""`pepnet-infer bench cache`: what a policy is worth, in hits and in the quality of scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def cache(
    trace: Annotated[
        Path | None, typer.Option(help="A parquet file: key, and if there are time (s) and positive (bool).")
    ] = None,
    capacity: Annotated[
        str, typer.Option(help="With commas between: rows, shares of the distinct ids like 10%, bytes like 64MiB.")
    ] = "1%,5%,10%,20%,40%",
    policies: Annotated[str, typer.Option(help="all, or names with commas between.")] = "all",
    ways: Annotated[str, typer.Option(help="full: exact; auto: set-associative, as it serves; both.")] = "both",
    dim: Annotated[int, typer.Option(min=1, help="Numbers of a row, for capacities in bytes.")] = 40,
    beta: Annotated[float, typer.Option(help="What a score loses an interval.")] = 0.1,
    r: Annotated[float, typer.Option(help="What a positive sample counts.")] = 3.0,
    interval: Annotated[
        float | None, typer.Option(help="Seconds; without times, accesses. Default a day; the cache's rows.")
    ] = None,
    label_delay: Annotated[
        float | None, typer.Option(help="When labels are known: seconds, or accesses. Default 60; 1000.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page with tables and picture.")] = None,
    png_file: Annotated[Path | None, typer.Option("--png", help="Write the picture to this file.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write the tables to this file.")] = None,
) -> None:
    """Replay a trace of ids through every policy, and through MIN, which knows the future."""
    from pepnet_infer.bench.cache_policies import Plan, measure_policies
    from pepnet_infer.bench.cache_policies_page import policies_figure, policies_page
    from pepnet_infer.bench.cache_replay import POLICIES, Scoring
    from pepnet_infer.bench.cache_trace import read_trace
    from pepnet_infer.cli.bench import _names, _need, _Steps, _usage, _write

    if trace is None:
        raise _usage("--trace", "expected a parquet file, got none")
    if ways not in ("full", "auto", "both"):
        raise _usage("--ways", f"expected full, auto or both, got {ways!r}")
    wanted = list(POLICIES) if policies == "all" else _names(policies)
    for name in wanted:
        if name not in POLICIES:
            raise _usage("--policies", f"expected some of {', '.join(POLICIES)}, got {name!r}")
    if html_file or png_file:
        _need("matplotlib", "bench")
    plan = Plan(
        capacities=capacity.split(","),
        policies=[policy for policy in POLICIES if policy in wanted],
        ways=("full", "auto") if ways == "both" else (ways,),
        dim=dim,
        scoring=Scoring(beta, r, interval, label_delay),
    )
    command = f"pepnet-infer bench cache --trace {trace.name} --capacity {capacity} --policies {policies} --ways {ways}"
    for flag, value, default in (
        ("--dim", dim, 40),
        ("--beta", beta, 0.1),
        ("--r", r, 3.0),
        ("--interval", interval, None),
        ("--label-delay", label_delay, None),
    ):
        command += "" if value == default else f" {flag} {value:g}"
    with _Steps() as say:
        result = measure_policies(read_trace(trace), plan, command, say)
    picture = policies_figure(result) if html_file or png_file else None
    _write(result, policies_page(result, picture), json_file, html_file, png_file, markdown_file)
