"""A latency result as a picture."""

from __future__ import annotations

from pepnet_infer.bench.figure import Bar, Panel, draw_bars
from pepnet_infer.bench.machine_table import machine_line
from pepnet_infer.bench.report import Result, show_ms


def latency_figure(result: Result) -> bytes:
    """Returns a PNG: per batch size a bar for each peer's p50, a whisker to its p99, speed-up and error beside it."""
    data, base = result.data, result.data["baseline"]
    panels = []
    for size in dict.fromkeys(row["batch"] for row in data["rows"]):
        bars = []
        for row in data["rows"]:
            if row["batch"] != size:
                continue
            ratio = 1.0 if row["peer"] == base else row["speedups"].get(base, {}).get("ratio")
            cells = (f"{show_ms(row['p50_ms'])} ms", "–" if ratio is None else f"{ratio:.2f}×", f"{row['max_abs']:.0e}")
            bars.append(Bar(row["peer"], row["p50_ms"], row["p99_ms"], row["precision"], cells, _ours(row["peer"])))
        panels.append(Panel("1 row" if size == 1 else f"{size} rows", bars))
    subtitle = (
        f"{machine_line(result.machine)}, {data['threads']} threads for every peer. Bar: median, whisker: 99th "
        f"percentile.\nSpeed-up: against {base}. Max error: largest difference of a score from float64, same rows."
    )
    headings = ("median", "speed-up", "max error")
    return draw_bars(f"Latency of the dense part, {data['bundle']}", subtitle, "ms", headings, panels)


def _ours(peer: str) -> bool:
    return peer.startswith("engine-")
