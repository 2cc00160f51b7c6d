"""A comparison of cache policies made readable."""

from __future__ import annotations

from typing import Any

from pepnet_infer.bench.cache_policies import MIN
from pepnet_infer.bench.machine_table import machine_line, machine_table
from pepnet_infer.bench.report import Page, Result, Table

_WORDS = frozenset({"policy", "ways"})


def policies_page(result: Result, picture: bytes | None = None) -> Page:
    """Returns the page of a result of kind "cache-policies"."""
    data = result.data
    again = 1 - data["distinct"] / data["accesses"]
    return Page(
        title=f"Cache policies on {data['trace']}",
        lead=f"{data['trace']}: {data['accesses']:,} accesses of {data['distinct']:,} ids, {again:.2%} of them to an "
        f"id seen before. {machine_line(result.machine)}.",
        command=result.command,
        tables=[_table(capacity) for capacity in data["capacities"]],
        details=(machine_table(result.machine),),
        notes=_notes(data),
        picture=picture,
        picture_says="Hit rate by capacity, a curve for each policy and one for MIN; the tables give the figures.",
    )


def policies_figure(result: Result) -> bytes:
    """Returns a PNG: hit rate by capacity. Needs matplotlib."""
    from pepnet_infer.bench.lines import Chart, Line, draw_lines

    data = result.data
    capacities = sorted(data["capacities"], key=lambda capacity: int(capacity["rows"]))
    keys = [(case["policy"], case["ways"]) for case in capacities[0]["cases"]]
    lines = []
    for policy, ways in keys:
        cases = [
            next(c for c in capacity["cases"] if (c["policy"], c["ways"]) == (policy, ways)) for capacity in capacities
        ]
        name = "MIN" if policy == MIN else policy
        label = name if ways == "" or len(data["ways"]) == 1 else f"{name}, {ways}"
        rows = [float(capacity["rows"]) for capacity in capacities]
        lines.append(Line(label, rows, [100 * c["hit_rate"] for c in cases], name, dashed=ways == "auto"))
    ticks = [(float(c["rows"]), f"{c['rows']:,}\n{c['capacity']}") for c in capacities]
    chart = Chart("Hit rate", "rows of the cache", "%", lines, ticks, log=True)
    subtitle = f"{data['accesses']:,} accesses of {data['distinct']:,} ids. Dashed: set-associative, as it serves."
    return draw_lines(f"Cache policies on {data['trace']}", subtitle, [chart])


def _table(capacity: dict[str, Any]) -> Table:
    rows = []
    for case in sorted(capacity["cases"], key=lambda case: (case["policy"] != MIN, -case["hits"])):
        apart = case["points_from_full"]
        rows.append(
            (
                "MIN" if case["policy"] == MIN else case["policy"],
                case["ways"],
                f"{100 * case['hit_rate']:.2f}",
                "–" if case["gap_closed"] is None else f"{case['gap_closed']:.1%}",
                "" if apart is None else f"{apart:+.2f}",
                f"{case['ns_an_access']:.0f}",
            )
        )
    columns = ("policy", "ways", "hit rate %", "LRU→MIN closed", "points from full", "ns an access")
    return Table(f"{capacity['rows']:,} rows ({capacity['capacity']})", columns, rows, _WORDS)


def _notes(data: dict[str, Any]) -> tuple[str, ...]:
    scoring, timed = data["scoring"], data["timed"]
    unit = "s" if timed else "accesses"
    interval = scoring["interval"] or ("86400" if timed else "as many as the cache has rows")
    labels = (
        "gset counts the trace's labels, each after its step of time"
        if data["labelled"]
        else "the trace has no labels: gset scores by accesses and is lfu here"
    )
    return (
        "Every policy is the cache's own code, replayed key by key: a miss inserts. MIN is exact and inserts too.",
        "LRU→MIN closed: hits above exact LRU, as a share of what MIN has above it.",
        f"Scores lose {scoring['beta']:.0%} an interval ({interval} {unit}); {labels}.",
    )
