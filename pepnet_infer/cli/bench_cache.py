"""`pepnet-infer bench cache`: what a policy is worth, in hits and in the quality of scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pepnet_infer.bench.cache_replay import Policy
    from pepnet_infer.bench.report import Page, Result


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
    quality: Annotated[
        list[Path] | None, typer.Option(metavar="BUNDLE", help="Instead of a trace: bundles, one a seed; needs --data.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="kuairand:DIR|synthetic[:ROWS]", help="The log they are of.")
    ] = None,
    shares: Annotated[str, typer.Option(help="Of a bundle's rows that the cache holds, with commas between.")] = (
        "5%,10%,20%,40%,60%"
    ),
    evicted: Annotated[
        str, typer.Option(help="What comes back after an eviction: refilled (the trained row), lost, both.")
    ] = "both",
    test_day: Annotated[
        int | None, typer.Option(help="The first day not trained on; default: what the bundle's scores tell.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page with tables and picture.")] = None,
    png_file: Annotated[Path | None, typer.Option("--png", help="Write the picture to this file.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write the tables to this file.")] = None,
) -> None:
    """Replay a trace of ids, or a log and its model, through every policy and MIN, which knows the future."""
    from pepnet_infer.bench.cache_policies import Plan, measure_policies
    from pepnet_infer.bench.cache_policies_page import policies_figure, policies_page
    from pepnet_infer.bench.cache_replay import POLICIES, Scoring
    from pepnet_infer.bench.cache_trace import read_trace
    from pepnet_infer.cli.bench_output import Steps, need, peer_names, usage_error, write_result

    if (trace is None) == (not quality):
        raise usage_error(
            "--trace", "expected either a parquet file or --quality BUNDLE, got " + ("both" if trace else "none")
        )
    if ways not in ("full", "auto", "both"):
        raise usage_error("--ways", f"expected full, auto or both, got {ways!r}")
    wanted = list(POLICIES) if policies == "all" else peer_names(policies)
    for name in wanted:
        if name not in POLICIES:
            raise usage_error("--policies", f"expected some of {', '.join(POLICIES)}, got {name!r}")
    if html_file or png_file:
        need("matplotlib", "bench")
    kept = [policy for policy in POLICIES if policy in wanted]
    if trace is None:
        result, page = _quality(
            quality or [], data, kept, policies, shares, evicted, label_delay, test_day, bool(html_file or png_file)
        )
        write_result(result, page, json_file, html_file, png_file, markdown_file)
        return
    plan = Plan(
        capacities=capacity.split(","),
        policies=kept,
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
    with Steps() as say:
        result = measure_policies(read_trace(trace), plan, command, say)
    picture = policies_figure(result) if html_file or png_file else None
    write_result(result, policies_page(result, picture), json_file, html_file, png_file, markdown_file)


def _quality(
    bundles: Sequence[Path],
    data: str | None,
    kept: Sequence[Policy],
    policies: str,
    shares: str,
    evicted: str,
    label_delay: float | None,
    test_day: int | None,
    draw: bool,
) -> tuple[Result, Page]:
    from pepnet_infer.bench.cache_quality import QualityPlan, measure_quality
    from pepnet_infer.bench.cache_quality_page import quality_figure, quality_page
    from pepnet_infer.bench.cache_quality_run import EVICTED
    from pepnet_infer.cli.bench_output import Steps, usage_error
    from pepnet_infer.export.data.source import open_source

    if data is None:
        raise usage_error("--data", "expected kuairand:DIR or synthetic[:ROWS] with --quality, got none")
    if evicted not in (*EVICTED, "both"):
        raise usage_error("--evicted", f"expected {', '.join(EVICTED)} or both, got {evicted!r}")
    plan = QualityPlan(
        policies=kept,
        shares=_shares(shares),
        evicted=[name for name in EVICTED if evicted in (name, "both")],
        label_delay=600.0 if label_delay is None else label_delay,
        first_test_day=test_day,
    )
    command = "pepnet-infer bench cache " + " ".join(f"--quality {path.resolve().name}" for path in bundles)
    command += f" --data {public_name(data)} --shares {shares} --policies {policies} --evicted {evicted}"
    command += "" if label_delay is None else f" --label-delay {label_delay:g}"
    command += "" if test_day is None else f" --test-day {test_day}"
    with Steps() as say:
        result = measure_quality(bundles, open_source(data), plan, command, say)
    return result, quality_page(result, quality_figure(result) if draw else None)


def _shares(text: str) -> list[float]:
    from pepnet_infer.cli.bench_output import usage_error

    try:
        shares = [float(part.strip().removesuffix("%")) / 100 for part in text.split(",")]
    except ValueError:
        shares = []
    if not shares or not all(0 < share <= 1 for share in shares) or len(set(shares)) != len(shares):
        raise usage_error("--shares", f"expected different shares above 0 and up to 100%, got {text!r}")
    return shares


def public_name(data: str) -> str:
    """What a data set is called in a published result: no folder of this machine."""
    kind, _, rest = data.partition(":")
    return f"{kind}:DIR" if rest and not rest.isdecimal() else data
