"""A result of `bench sync` made readable."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from pepnet_infer.bench.harness.busy import noise
from pepnet_infer.bench.harness.machine import machine_line, machine_table
from pepnet_infer.bench.harness.report import METHOD, Report, Table, show_ms

_KINDS = {
    "idle": "nothing is published",
    "elsewhere": "to a log that nobody reads",
    "follow": "to the log that is followed",
}
_SCORING = {
    "what is published": "{what}",
    "p50 ms": "{p50_ms:ms}",
    "p99 ms": "{p99_ms:ms}",
    "max ms": "{max_ms:ms}",
    "calls/s": "{calls_per_s:.1f}",
    "rows/s": "{rows_per_s:,.0f}",
    "publisher CPU": "{publisher_cpus:.1%}",
    "follower CPU": "{follower_cpus:.1%}",
    "calls": "{calls:,}",
}
_RATIOS = {
    "follow over idle": "followed over nothing published",
    "follow over elsewhere": "followed over published elsewhere: the follower's part",
    "elsewhere over idle": "published elsewhere over nothing published: the publisher's part",
}
_PANELS = {
    "version": "versions since the bundle",
    "fresh_ms": "freshness of the last delta, ms",
    "rows_per_s": "rows applied a second",
    "p50_ms": "scoring, median, ms",
    "max_ms": "scoring, the longest call, ms",
}


def sync_page(data: dict[str, Any], facts: dict[str, Any]) -> Report:
    """Returns the report of what `measure_sync` found on a machine with `facts`."""
    options, bearable = data["options"], data["bearable"]
    claims = [{**c, "met": "yes" if c["got"] <= c["bound"] else "NO"} for c in data["claims"]]
    kinds = [{"what": what, **data["kinds"][order]} for order, what in _KINDS.items()]
    ratios = [{"what": what, **data["p99"][name]} for name, what in _RATIOS.items()]
    asked = "as asked for"
    if bearable is not None:
        asked = (
            f"{bearable['share']:.0%} of the {bearable['taken']:,.0f} that the follower takes while nothing is scored, "
            "100,000 at most"
        )
    return Report(
        "sync",
        f"Online sync, {data['bundle']}",
        f"{options['rows_per_s']:,} changed rows a second ({asked}) in deltas of {options['delta_s']:g} s, dense "
        f"weights with every {options['dense_every']}th; {options['threads']} threads score batches of "
        f"{options['batch']}, each {options['load']:.0%} of the time. {machine_line(facts)}; "
        f"{noise(data['kinds']['idle']['others_busy'])}, while nothing was published.",
        data,
        facts,
        [
            Table(
                "What was asked, and what came",
                claims,
                {"requirement": "{what}", "asked": "≤ {bound:g}", "got": "{got:.2f}", "met": "{met}"},
            ),
            Table("Scoring", kinds, _SCORING, "CPU: of one CPU, by the process's and the thread's own clock."),
            Table(
                "How p99 moves",
                ratios,
                {"p99 of": "{what}", "ratio": "{ratio:.2f}×", "95 %": "{low:.2f}–{high:.2f}"},
                "All calls of one kind over all of the other; the middle 95 % when rounds are drawn with replacement.",
            ),
            Table("The follower", _follower(data), ("what", "value")),
        ],
        [machine_table(facts)],
        (
            f"{data['rounds']} rounds of slices of {data['slice_s']:g} s, each kind once a round, in balanced order. "
            "Calls that reach over the end of a slice are left out.",
            METHOD,
        ),
        lambda: _picture(data, machine_line(facts)),
    )


def _follower(data: dict[str, Any]) -> list[dict[str, str]]:
    follower, resident = data["follower"], data["resident_bytes"]
    seconds = data["rounds"] * data["slice_s"]
    rows = {
        f"{since} to visible, p50, p99, longest": ", ".join(show_ms(took[name]) for name in ("p50", "p99", "max"))
        + f" ms of {took['deltas']} deltas"
        for since, took in (("produced", data["freshness_ms"]), ("published", data["visible_ms"]))
    }
    rows |= {
        "longest lag seen": f"{data['lag_s'] * 1e3:.0f} ms",
        "deltas applied": f"{follower['applied']}, {follower['dense']} of them with weights",
        "rows applied": f"{follower['rows']:,}, {follower['rows'] / seconds:,.0f} a second",
        "bytes": f"{follower['bytes'] / 1e6:,.0f} MB, {follower['bytes'] / 1e6 / seconds:.1f} MB a second",
        "refused": ", ".join(f"{reason} {count}" for reason, count in follower["refused"].items()) or "none",
        "weights that nothing was scored with before": str(follower["unguarded"]),
        "ids whose rows came after the bundle": f"{follower['layered_rows']:,}",
        "memory before and after": f"{resident['before'] / 2**20:.0f} and {resident['after'] / 2**20:.0f} MiB",
    }
    return [{"what": what, "value": value} for what, value in rows.items()]


def _picture(data: dict[str, Any], machine: str) -> bytes:
    """Returns a PNG: panels above each other, the slices of each kind shaded."""
    from pepnet_infer.bench.harness.pictures import Chart, Line, draw_lines

    options, series, shades, charts = data["options"], data["series"], [], []
    for order, run in groupby(series, key=lambda point: point["order"]):
        points = list(run)
        if order != "idle":
            shades.append((points[0]["at_s"], points[-1]["at_s"], order))
    for name, title in _PANELS.items():
        shown = [point for point in series if point[name] is not None]
        line = Line(title, [p["at_s"] for p in shown], [p[name] for p in shown], title)
        charts.append(Chart(title, "seconds", "", [line], shades=shades))
    subtitle = (
        f"{machine}. {options['rows_per_s']:,} rows a second in deltas of {options['delta_s']:g} s, "
        f"{options['threads']} threads score batches of {options['batch']}.\nShaded: slices in which deltas go to the "
        "log that is followed, or to one that nobody reads."
    )
    return draw_lines(f"Online sync, {data['bundle']}", subtitle, charts, columns=1)
