"""A latency result made readable: which tables it has, and what each shows of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pepnet_infer.bench.harness import busy
from pepnet_infer.bench.harness.machine import machine_line
from pepnet_infer.bench.harness.measure import Row
from pepnet_infer.bench.harness.report import Report, Table

#: The peers that ratios are printed against: what people run today, and the fastest of the others.
BASELINES = ("onnxruntime", "openvino-bf16")
#: The most that a peer may reach of a limit that was measured as well as the peer was.
BEYOND = 1.05
_DENSE = {"peer": "{name}", "precision": "{precision}", "p50 ms": "{p50_ms:ms}", "p99 ms": "{p99_ms:ms}"}
_WORTH = {
    "max error": "{max_abs:.1e}",
    "rms error": "{rms:.1e}",
    "matrix peak": "{matrix_share:.0%}",
    "weights read": "{read_share:.0%}",
}
_REQUESTS = {
    "call": "{name}",
    "backend": "{backend}",
    "batch": "{batch:d}",
    "p50 ms": "{p50_ms:ms}",
    "95 %": "{low_ms:ms}–{high_ms:ms}",
    "p99 ms": "{p99_ms:ms}",
    "rank over score": "{over_score[ratio]:.2f}× ({over_score[low]:.2f}–{over_score[high]:.2f})",
    "hit rate": "{hit_rate:.3f}",
    "encode ms": "{stages_ms[encode]:ms}",
    "lookup ms": "{stages_ms[lookup]:ms}",
    "dense ms": "{stages_ms[dense]:ms}",
    "runs": "{runs:d}",
}
_OVERHEAD = {
    "batch": "{batch:d}",
    "overhead µs": "{p50_ms:us}",
    "95 %": "{low_ms:us}–{high_ms:us}",
    "99 % µs": "{p99_ms:us}",
    "calls": "{runs:d}",
}
_MISSING = {"peer": "{name}", "batch": "{batch:d}", "reason": "{reason}"}
_ABOUT_REQUESTS = "One user's request, by rank and as its rows by score. Hit rate and stages: means of all calls."
_ABOUT_OVERHEAD = "A call of score_dense less the run of the C++ model within it, native fp32."


def latency_page(data: dict[str, Any], facts: dict[str, Any]) -> Report:
    """Returns the report of what `measure_latency` found on a machine with `facts`."""
    by_size: dict[int, list[Row]] = {}
    for row in data["rows"]:
        by_size.setdefault(row["batch"], []).append(row)
    macs, plan = data["multiply_adds_a_row"], data["plan"]
    tables = [
        *(Table(f"Dense part, batch {size}", rows, _columns(rows)) for size, rows in by_size.items()),
        Table("End to end, ids in", data["end_to_end"], _REQUESTS, _ABOUT_REQUESTS),
        Table("Overhead of a call of score_dense", data["overhead"], _OVERHEAD, _ABOUT_OVERHEAD),
        Table("Peers without a figure", data["missing"], _MISSING),
    ]
    cost = [f"{macs / 1e6:.2f} M multiply-adds a row"] if macs else []
    cost += [f"{data['weights'] / 1e6:.2f} M weights", f"{len(data['tasks'])} tasks"]
    return Report(
        "latency",
        f"Latency of {data['bundle']}",
        f"{', '.join(cost)}. {data['threads']} threads for every peer; {noise(data)}.",
        data,
        [table for table in tables if table.rows],
        notes=[
            f"At least {plan['runs']} timed calls of each and {plan['seconds']:g} s a batch size, after untimed ones, "
            f"{plan['warm_calls']} and {plan['warm_s'] * 1e3:g} ms at least; inputs of {data['rotating_rows']} rows.",
        ],
        picture=lambda: _picture(data, by_size, machine_line(facts)),
        machine=facts,
    )


def noise(data: dict[str, Any]) -> str:
    """Says how quiet the machine was, and which rows passed a limit that was measured in a slow moment then."""
    said = busy.noise(data["others_busy"], sum(row["unsettled"] for row in data["rows"]))
    for row in data["rows"]:
        most = max(row["matrix_share"] or 0.0, row["read_share"] or 0.0)
        if most > BEYOND:
            limit = f"reached {most:.0%} of a limit of the machine, measured too low"
            said += f"; {row['name']} at batch {row['batch']} {limit}"
    return said


def _columns(rows: Sequence[Row]) -> dict[str, str]:
    """The columns of the dense part: how many times faster than each baseline that was measured, and at what error."""
    ratio = "{{speedups[{0}][ratio]:.2f}}× ({{speedups[{0}][low]:.2f}}–{{speedups[{0}][high]:.2f}})"
    measured = {row["name"] for row in rows}
    faster = {f"over {name}": ratio.format(name) for name in BASELINES if name in measured}
    return {**_DENSE, **faster, **_WORTH}


def _picture(data: dict[str, Any], by_size: dict[int, list[Row]], machine: str) -> bytes:
    """Returns a PNG: a line for each peer's p50 over the batch sizes, dashed in a narrower precision than fp32."""
    from pepnet_infer.bench.harness.pictures import Chart, Line, draw_lines

    lines = []
    for name, precision in {row["name"]: row["precision"] for row in data["rows"]}.items():
        rows = [row for row in data["rows"] if row["name"] == name]
        sizes, times = [row["batch"] for row in rows], [row["p50_ms"] for row in rows]
        lines.append(Line(name, sizes, times, name.removesuffix(f"-{precision}"), precision != "fp32"))
    ticks = [(size, str(size)) for size in by_size]
    chart = Chart("Dense part, median", "rows", "ms", lines, ticks, log=True)
    subtitle = f"{machine}, {data['threads']} threads for every peer; narrower precisions are dashed"
    return draw_lines(f"Latency of {data['bundle']}", subtitle, [chart])
