"""Curves beside each other, one panel per subject, with a shared legend."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from pepnet_infer.bench.figure import GRID, INK, PALETTE, SOFT

_WIDTH, _HEIGHT, _HEAD, _FOOT = 4.4, 3.5, 0.95, 0.75  # inches: of a panel, above and below the panels


@dataclass(frozen=True)
class Line:
    """Points from left to right. Lines of one group share a colour; a dashed one is the other form of it."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    group: str
    dashed: bool = False
    band: Sequence[float] = ()  # half the width of the band around it, where there is one


@dataclass(frozen=True)
class Chart:
    """One panel. `ticks` are the places named on the x axis, with their names."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    ticks: Sequence[tuple[float, str]]
    log: bool = False


def draw_lines(title: str, subtitle: str, charts: Sequence[Chart]) -> bytes:
    """Returns a PNG with the charts side by side. Raises ValueError for no charts, empty or uneven lines."""
    if not charts:
        raise ValueError("expected charts, got none")
    for line in (line for chart in charts for line in chart.lines):
        if not len(line.xs) == len(line.ys) > 0 or len(line.band) not in (0, len(line.xs)):
            raise ValueError(f"expected as many ys as xs, at least one, got {line}")
    groups = list(dict.fromkeys(line.group for chart in charts for line in chart.lines))
    colours = {group: INK if group == "MIN" else PALETTE[i % len(PALETTE)] for i, group in enumerate(groups)}
    columns = min(3, len(charts))
    rows = -(-len(charts) // columns)
    height = _HEAD + rows * _HEIGHT + _FOOT
    figure = Figure(figsize=(max(8.5, _WIDTH * columns), height), facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        rows, columns, left=0.075, right=0.985, top=1 - (_HEAD + 0.25) / height, bottom=(_FOOT + 0.3) / height,
        wspace=0.24, hspace=0.42,
    )  # fmt: skip
    axes = [figure.add_subplot(grid[i // columns, i % columns]) for i in range(len(charts))]
    for axis, chart in zip(axes, charts, strict=True):
        _draw(axis, chart, colours)
    labelled = {line.label: handle for axis, chart in zip(axes, charts, strict=True)
                for line, handle in zip(chart.lines, axis.get_lines(), strict=True)}  # fmt: skip
    figure.legend(
        labelled.values(), labelled.keys(), loc="lower center", ncols=min(6, len(labelled)), frameon=False, fontsize=9
    )
    figure.text(0.015, 1 - 0.16 / height, title, color=INK, fontsize=13.5, weight="bold", va="top")
    figure.text(0.015, 1 - 0.45 / height, subtitle, color=SOFT, fontsize=8.5, va="top", linespacing=1.4)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def _draw(axis: Axes, chart: Chart, colours: dict[str, str]) -> None:
    if chart.log:
        axis.set_xscale("log")
    for line in chart.lines:
        style = (0, (4, 2)) if line.dashed else "-"
        colour = colours[line.group]
        axis.plot(line.xs, line.ys, color=colour, linestyle=style, linewidth=1.6, marker="o", markersize=3.2, zorder=3)
        if line.band:
            low = [y - b for y, b in zip(line.ys, line.band, strict=True)]
            high = [y + b for y, b in zip(line.ys, line.band, strict=True)]
            axis.fill_between(line.xs, low, high, color=colour, alpha=0.13, linewidth=0, zorder=2)
    axis.set_title(chart.title, loc="left", fontsize=10.5, color=INK, weight="bold", pad=6)
    axis.set_xlabel(chart.x, color=SOFT, fontsize=8.5)
    axis.set_ylabel(chart.y, color=SOFT, fontsize=8.5)
    axis.set_xticks([x for x, _ in chart.ticks], [name for _, name in chart.ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.tick_params(colors=SOFT, labelsize=8)
    axis.grid(color=GRID, linewidth=0.8, zorder=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(GRID)
