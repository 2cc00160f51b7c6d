"""What `bench sync` measured over time: four panels above each other, with the slices of each kind shaded."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pepnet_infer.bench.figure import GRID, INK, PALETTE, SOFT
from pepnet_infer.bench.machine_table import machine_line
from pepnet_infer.bench.report import Result

_SHADES = {"follow": PALETTE[0], "elsewhere": PALETTE[1]}
_PANELS = (
    ("version", "versions since the bundle", 0),
    ("fresh_ms", "freshness of the last delta, ms", 2),
    ("rows_per_s", "rows applied a second", 0),
    ("p50_ms", "scoring, ms: median, and the longest", 5),
)


def sync_figure(result: Result) -> bytes:
    """Returns a PNG."""
    data, options = result.data, result.data["options"]
    points: list[dict[str, Any]] = data["series"]
    figure = Figure(figsize=(10.5, 9.0), facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(_PANELS), 1, left=0.085, right=0.985, top=0.885, bottom=0.065, hspace=0.42)
    for row, (name, title, colour) in enumerate(_PANELS):
        axis = figure.add_subplot(grid[row, 0])
        _shade(axis, points)
        shown = [point for point in points if point[name] is not None]
        axis.plot([p["at_s"] for p in shown], [p[name] for p in shown], color=PALETTE[colour], linewidth=1.4, zorder=3)
        if name == "p50_ms":
            axis.plot(
                [p["at_s"] for p in shown], [p["max_ms"] for p in shown], color=PALETTE[colour], linewidth=0.8,
                alpha=0.45, zorder=2,
            )  # fmt: skip
        axis.set_title(title, loc="left", fontsize=10.5, color=INK, weight="bold", pad=5)
        axis.set_xlim(0, points[-1]["at_s"])
        axis.set_ylim(bottom=0)
        axis.tick_params(colors=SOFT, labelsize=8)
        axis.grid(color=GRID, linewidth=0.8, zorder=0)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
        axis.spines["bottom"].set_color(GRID)
    axis.set_xlabel("seconds", color=SOFT, fontsize=8.5)
    figure.text(0.015, 0.982, f"Online sync, {data['bundle']}", color=INK, fontsize=13.5, weight="bold", va="top")
    subtitle = (
        f"{machine_line(result.machine)}. {options['rows_per_s']:,} rows a second in deltas of "
        f"{options['delta_s']:g} s, {options['threads']} threads score batches of {options['batch']}.\n"
        "Blue: the engine follows what is published. Orange: as much is published to a log that nobody reads. "
        "White: nothing is."
    )
    figure.text(0.015, 0.956, subtitle, color=SOFT, fontsize=8.5, va="top", linespacing=1.4)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def _shade(axis: Axes, points: list[dict[str, Any]]) -> None:
    """Colours each slice from its first sample to its last."""
    begin = 0
    for at in range(1, len(points) + 1):
        if at < len(points) and points[at]["order"] == points[begin]["order"]:
            continue
        colour = _SHADES.get(points[begin]["order"])
        if colour is not None:
            axis.axvspan(points[begin]["at_s"], points[at - 1]["at_s"], color=colour, alpha=0.1, linewidth=0, zorder=1)
        begin = at
