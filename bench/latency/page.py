"""A latency result made readable: which tables it has, and what each shows of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pepnet_infer.bench.harness import busy
from pepnet_infer.bench.harness.machine import machine_line, machine_table
from pepnet_infer.bench.harness.measure import Row
from pepnet_infer.bench.harness.report import METHOD, Report, Table, show_ms

#: The most that a peer may reach of a limit that was measured as well as the peer was.
BEYOND = 1.05
_INTERVAL = "{low:.2f}–{high:.2f}"
_DENSE = {
    "peer": "{name}",
    "precision": "{precision}",
    "p50 ms": "{p50_ms:ms}",
    "p99 ms": "{p99_ms:ms}",
    "speed-up": "{speedup[ratio]:.2f}×",
    "95 %": "{speedup[low]:.2f}–{speedup[high]:.2f}",
    "max error": "{max_abs:.1e}",
    "rms error": "{rms:.1e}",
    "matrix peak": "{matrix_share:.0%}",
    "weights read": "{read_share:.0%}",
}
_RATIOS = {
    "ours": "{name}",
    "against": "{against}",
    "batch": "{batch:d}",
    "ratio": "{ratio:.2f}×",
    "95 %": _INTERVAL,
    "within rounds": "{within_rounds:.2f}×",
    "p99/p50": "{p99_over_p50:.2f}",
    "matrix peak": "{matrix_share:.0%}",
    "weights read": "{read_share:.0%}",
    "rms error": "{rms:.1e}",
    "other's": "{against_rms:.1e}",
}
_REQUESTS = {
    "call": "{call}",
    "engine": "{backend} {precision}",
    "batch": "{batch:d}",
    "p50 ms": "{p50_ms:ms}",
    "p99 ms": "{p99_ms:ms}",
    "speed-up": "{over_score[ratio]:.2f}× ({over_score[low]:.2f}–{over_score[high]:.2f})",
    "encode ms": "{stages_ms[encode]:ms}",
    "lookup ms": "{stages_ms[lookup]:ms}",
    "dense ms": "{stages_ms[dense]:ms}",
    "runs": "{runs:d}",
}
_HITS = {
    "call": "{name}",
    "precision": "{precision}",
    "batch": "{batch:d}",
    "measured": "{hit_rate:.4f}",
    "p50 ms": "{p50_ms:ms}",
    "p99 ms": "{p99_ms:ms}",
    "over dense": "{over_dense:.1%}",
    "95 %": "{low:.1%}–{high:.1%}",
    "enough": "{enough}",
    "fetched a call": "{fetched_a_call:.0f}",
    "runs": "{runs:d}",
}
_OVERHEAD = {
    "batch": "{rows}",
    "overhead µs": "{overhead_us:.1f}",
    "95 %": "{low:.1f}–{high:.1f}",
    "99th percentile": "{p99_us:.1f}",
    "call µs": "{score_dense_us:.1f}",
    "C++ µs": "{run_us:.1f}",
    "calls": "{calls:d}",
}
_TIMES = {
    "peer": "{name}",
    "batch": "{batch:d}",
    "runs": "{runs:d}",
    "mean": "{mean_ms:ms}",
    **{f"{mark} %": f"{{quantiles_ms[{mark}]:ms}}" for mark in (0, 25, 50, 75, 90, 99, 100)},
    "rows/s": "{rows_per_s:.0f}",
}
_PEERS = {
    "peer": "{name}",
    "what is run": "{how}",
    "settings": "{settings_text}",
    "load s": "{load_s:.1f}",
    "rows checked": "{rows_checked:d}",
}


def latency_page(data: dict[str, Any], facts: dict[str, Any]) -> Report:
    """Returns the report of what `measure_latency` found on a machine with `facts`."""
    by_size: dict[int, list[Row]] = {}
    for row in data["rows"]:
        by_size.setdefault(row["batch"], []).append(row)
        row["settings_text"] = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
    base, hits = data["baseline"], data["hit_rates"]
    tables = [
        *(Table(f"Dense part, batch {size}; speed-up against {base}", rows, _DENSE) for size, rows in by_size.items()),
        Table("Our precisions against the peers to beat", data["ratios"], _RATIOS, _SAYS["ratios"]),
        Table("End to end, ids in", data["end_to_end"], _REQUESTS, _SAYS["requests"]),
        Table("End to end at given hit rates", hits["rows"], _HITS, _about_hits(hits) if hits["rows"] else ""),
        Table("Overhead of a call of score_dense", data["overhead_us"], _OVERHEAD, _SAYS["overhead"]),
        Table(
            "Peers without a figure", data["missing"], {"peer": "{name}", "batch": "{batch:d}", "reason": "{reason}"}
        ),
    ]
    peers = list({row["name"]: row for row in reversed(data["rows"])}.values())[::-1]
    details = [
        *(_every_pair(size, rows) for size, rows in by_size.items()),
        Table("Times in milliseconds", data["rows"], _TIMES),
        Table("Peers", peers, _PEERS, "Load includes the first call, in which some compile."),
        machine_table(facts),
    ]
    macs = data["multiply_adds_a_row"]
    cost = (
        "" if macs is None else f"{macs / 1e6:.2f} M multiply-adds a row, "
    ) + f"{data['weights'] / 1e6:.2f} M weights"
    return Report(
        "latency",
        f"Latency of {data['bundle']}",
        f"{cost}, {len(data['tasks'])} tasks. {machine_line(facts)}, {data['threads']} threads for every peer; "
        f"{noise(data)}.",
        data,
        facts,
        [table for table in tables if table.rows],
        details,
        _notes(data),
        lambda: _picture(data, by_size, machine_line(facts)),
    )


def noise(data: dict[str, Any]) -> str:
    """Says how quiet the machine was, and which rows passed a limit that was measured in a slow moment then."""
    said = busy.noise(max(data["others_busy"].values(), default=0.0), sum(row["unsettled"] for row in data["rows"]))
    for row in data["rows"]:
        most = max(row["matrix_share"] or 0.0, row["read_share"] or 0.0)
        if most > BEYOND:
            limit = f"reached {most:.0%} of a limit of the machine, measured too low"
            said += f"; {row['name']} at batch {row['batch']} {limit}"
    return said


def _every_pair(size: int, rows: Sequence[Row]) -> Table:
    ratio = "{{speedups[{0}][ratio]:.2f}}× ({{speedups[{0}][low]:.2f}}–{{speedups[{0}][high]:.2f}})"
    columns = {"peer": "{name}", **{row["name"]: ratio.format(row["name"]) for row in rows}}
    return Table(f"Speed-up of every peer (row) against every other (column), batch {size}", rows, columns)


def _picture(data: dict[str, Any], by_size: dict[int, list[Row]], machine: str) -> bytes:
    """Returns a PNG: per batch size a bar for each peer's p50, a whisker to its p99, speed-up and error beside it."""
    from pepnet_infer.bench.harness.pictures import Bar, draw_bars

    panels = []
    for size, rows in by_size.items():
        bars = []
        for row in rows:
            ratio = "–" if row["speedup"] is None else f"{row['speedup']['ratio']:.2f}×"
            cells = (f"{show_ms(row['p50_ms'])} ms", ratio, f"{row['max_abs']:.0e}")
            bars.append(Bar(row["name"], row["p50_ms"], row["p99_ms"], row["precision"], cells))
        panels.append(("1 row" if size == 1 else f"{size} rows", bars))
    subtitle = (
        f"{machine}, {data['threads']} threads for every peer. Bar: median, whisker: 99th percentile.\n"
        f"Speed-up: against {data['baseline']}. Max error: largest difference of a score from float64, same rows."
    )
    title = f"Latency of the dense part, {data['bundle']}"
    return draw_bars(title, subtitle, "ms", ("median", "speed-up", "max error"), panels)


_SAYS = {
    "ratios": "Within rounds: the median of the ratios of the two calls of each round. Shares, p99/p50, rms: ours.",
    "requests": "Request: one user's rows, by rank and by score with the user repeated; speed-up: of rank. Stages are "
    "means, from the engine's own counters.",
    "overhead": "A call of score_dense less the run of the C++ model within it, native fp32; medians of the two.",
}


def _about_hits(data: dict[str, Any]) -> str:
    asked = data["asked"]
    return (
        "Lookup: ids to rows in the three inputs. Over dense: its p50 over the fastest dense part's, in the same "
        f"rounds; enough is at most {asked['over_dense']:.0%} at batch {asked['batch']} when all hit. "
        f"Cache: {data['policy']}, {data['cache_rows']} rows, {data['cache_bytes'] / 2**20:.0f} MiB, full. "
        f"Tables: {data['table_rows']} rows, {data['table_bytes'] / 2**20:.0f} MiB; ids that hit are {data['ids']}. "
        f"Store: {data['store']}."
    )


def _notes(data: dict[str, Any]) -> tuple[str, ...]:
    plan = data["plan"]
    return (
        f"At least {plan['runs']} timed calls of each and {plan['seconds']:g} s a batch size, after untimed ones, "
        f"{plan['warm_calls']} and {plan['warm_s'] * 1e3:g} ms at least. Inputs rotate through {data['rotating_rows']} "
        f"rows, {data['rotating_bytes'] / 2**20:.0f} MiB; scores deviate by {data['scores_std']:.2f} there.",
        METHOD,
    )
