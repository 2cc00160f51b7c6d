"""Pictures of results: bars of times on a logarithmic scale with figures beside them, and curves; PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

_INK, _SOFT, _GRID = "#1c2430", "#5b6675", "#e3e7ec"
#: Colours of the groups in order; Okabe and Ito's palette, which people with colour blindness can tell apart.
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_HEAD, _FOOT = 1.2, 0.6  # inches above and below the panels
_NUMBERS = FuncFormatter(lambda value, _: f"{value:g}")


@dataclass(frozen=True)
class Bar:
    """One bar to `value` with a whisker to `high`. `cells` are written to its right, under the panel's headings."""

    label: str
    value: float
    high: float
    group: str  # bars of a group share a colour
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """Points from left to right. Lines of one group share a colour; a dashed one is the other form of it."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    group: str
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """A panel of lines over a logarithmic x axis. `ticks`: the places named on it."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    ticks: Sequence[tuple[float, str]]


def draw_bars(
    title: str, subtitle: str, unit: str, headings: Sequence[str], panels: Sequence[tuple[str, Sequence[Bar]]]
) -> bytes:
    """Returns a PNG with the panels (title, bars) beneath each other, each with an axis of its own.

    `headings` name the cells of the bars, `unit` is that of value and high. Raises ValueError without bars, and for
    values that a logarithmic axis cannot show.
    """
    everything = [bar for _, bars in panels for bar in bars]
    if not panels or any(not bars for _, bars in panels):
        raise ValueError(f"expected bars in every panel, got {[len(bars) for _, bars in panels]}")
    for bar in everything:
        if not 0 < bar.value <= bar.high or len(bar.cells) != len(headings):
            raise ValueError(f"expected 0 < value <= high and {len(headings)} cells, got {bar}")
    colours = _colours([bar.group for bar in everything])
    heights = [len(bars) for _, bars in panels]
    height = _HEAD + _FOOT + 0.29 * sum(heights) + 0.72 * (len(panels) - 1)
    figure = _figure(10.5, height, title, subtitle)
    grid = figure.add_gridspec(
        len(panels), 1, height_ratios=heights, left=0.165, right=0.66, top=1 - _HEAD / height, bottom=_FOOT / height,
        hspace=0.72 * len(panels) / (0.29 * sum(heights)),
    )  # fmt: skip
    for place, (name, bars) in enumerate(panels):
        axis = figure.add_subplot(grid[place, 0])
        rows = range(len(bars))
        axis.set(xscale="log", ylim=(len(bars) - 0.5, -0.5))
        axis.set_xlim(min(bar.value for bar in bars) / 2, max(bar.high for bar in bars) * 1.15)
        axis.barh(rows, [bar.value for bar in bars], color=[colours[bar.group] for bar in bars], height=0.66, zorder=2)
        axis.hlines(rows, [b.value for b in bars], [b.high for b in bars], color=_INK, linewidth=1.1, zorder=3)
        axis.plot([b.high for b in bars], rows, "|", color=_INK, markersize=7, zorder=3)
        for row, cells in enumerate([tuple(headings), *(bar.cells for bar in bars)]):
            for column, cell in enumerate(cells):
                at = (1 + 0.67 * (column + 1) / len(headings), row - 1.85 if row == 0 else row - 1)
                axis.text(
                    *at, cell, transform=axis.get_yaxis_transform(), ha="right", va="center", fontsize=8.5,
                    color=_INK if row and column == 0 else _SOFT, clip_on=False,
                )  # fmt: skip
        axis.set_yticks(rows, [bar.label for bar in bars], fontsize=9, color=_INK)
        decades = max(bar.high for bar in bars) / min(bar.value for bar in bars)
        axis.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if decades < 300 else (1,), numticks=12))
        axis.xaxis.set_major_formatter(_NUMBERS)
        _dress(axis, f"{name}, {unit}", "x")
    handles = [axis.barh([0], [0], color=colours[group], label=group) for group in colours]
    corner = (0.99, 1 - 0.08 / height)
    figure.legend(handles=handles, loc="upper right", bbox_to_anchor=corner, ncols=len(handles), frameon=False)
    return _png(figure)


def draw_lines(title: str, subtitle: str, charts: Sequence[Chart]) -> bytes:
    """Returns a PNG with three charts beside each other. Raises ValueError for no charts, empty or uneven lines."""
    if not charts:
        raise ValueError("expected charts, got none")
    lines = [line for chart in charts for line in chart.lines]
    for line in lines:
        if not len(line.xs) == len(line.ys) > 0:
            raise ValueError(f"expected as many ys as xs, at least one, got {line}")
    colours = _colours([line.group for line in lines]) | {"MIN": _INK}
    columns = min(3, len(charts))
    rows = -(-len(charts) // columns)
    height = _HEAD + rows * 3.5 + _FOOT
    figure = _figure(max(10.5, 4.4 * columns), height, title, subtitle)
    grid = figure.add_gridspec(
        rows, columns, left=0.075, right=0.985, top=1 - _HEAD / height, bottom=(_FOOT + 0.3) / height,
        wspace=0.24, hspace=0.42,
    )  # fmt: skip
    labelled = {}
    for place, chart in enumerate(charts):
        axis = figure.add_subplot(grid[place // columns, place % columns])
        axis.set_xscale("log")
        for line in chart.lines:
            (labelled[line.label],) = axis.plot(
                line.xs, line.ys, marker="o", color=colours[line.group], linestyle=(0, (4, 2)) if line.dashed else "-",
                linewidth=1.6, markersize=3.2, zorder=3,
            )  # fmt: skip
        axis.set_xlabel(chart.x, color=_SOFT, fontsize=8.5)
        axis.set_ylabel(chart.y, color=_SOFT, fontsize=8.5)
        axis.set_xticks([x for x, _ in chart.ticks], [name for _, name in chart.ticks])
        axis.yaxis.set_major_formatter(_NUMBERS)
        _dress(axis, chart.title, "both")
    figure.legend(
        labelled.values(), labelled.keys(), loc="lower center", ncols=min(6, len(labelled)), frameon=False, fontsize=9
    )
    return _png(figure)


def _colours(groups: Sequence[str]) -> dict[str, str]:
    return {group: _PALETTE[i % len(_PALETTE)] for i, group in enumerate(dict.fromkeys(groups))}


def _figure(width: float, height: float, title: str, subtitle: str) -> Figure:
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.015, 1 - 0.16 / height, title, color=_INK, fontsize=13.5, weight="bold", va="top")
    figure.text(0.015, 1 - 0.45 / height, subtitle, color=_SOFT, fontsize=8.5, va="top", linespacing=1.4)
    return figure


def _dress(axis: Axes, title: str, grid: str) -> None:
    axis.set_title(title, loc="left", fontsize=10.5, color=_INK, weight="bold", pad=6)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.tick_params(axis="x", colors=_SOFT, labelsize=8)
    axis.grid(axis="x" if grid == "x" else "both", color=_GRID, linewidth=0.8, zorder=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(_GRID)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()
