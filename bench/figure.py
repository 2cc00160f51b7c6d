"""Bars of times on a logarithmic scale, one panel per case, with the figures written beside them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

INK, SOFT, GRID = "#1c2430", "#5b6675", "#e3e7ec"
#: Colours of the groups in order; Okabe and Ito's palette, which people with colour blindness can tell apart.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")

_WIDTH, _LEFT, _RIGHT = 10.5, 0.165, 0.66  # inches; the panels' edges as shares of the width
_BAR, _GAP, _HEAD, _FOOT = 0.29, 0.72, 1.22, 0.42  # inches: a bar's row, between panels, above and below them


@dataclass(frozen=True)
class Bar:
    """One bar to `value` with a whisker to `high`. `cells` are written to its right, under the panel's headings."""

    label: str
    value: float
    high: float
    group: str  # bars of a group share a colour
    cells: tuple[str, ...]
    bold: bool = False


@dataclass(frozen=True)
class Panel:
    """The bars of one case, from top to bottom."""

    title: str
    bars: Sequence[Bar]


def draw_bars(title: str, subtitle: str, unit: str, headings: Sequence[str], panels: Sequence[Panel]) -> bytes:
    """Returns a PNG with the panels beneath each other, each with an axis of its own.

    `headings` name the cells of the bars, `unit` is that of value and high. Raises ValueError without bars, and for
    values that a logarithmic axis cannot show.
    """
    bars = [bar for panel in panels for bar in panel.bars]
    if not panels or any(not panel.bars for panel in panels):
        raise ValueError(f"expected bars in every panel, got {[len(panel.bars) for panel in panels]}")
    for bar in bars:
        if not 0 < bar.value <= bar.high or len(bar.cells) != len(headings):
            raise ValueError(f"expected 0 < value <= high and {len(headings)} cells, got {bar}")
    groups = list(dict.fromkeys(bar.group for bar in bars))
    colours = {group: PALETTE[i % len(PALETTE)] for i, group in enumerate(groups)}
    height = _HEAD + sum(_BAR * len(panel.bars) for panel in panels) + _GAP * (len(panels) - 1) + _FOOT
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    top = height - _HEAD
    for panel in panels:
        tall = _BAR * len(panel.bars)
        axis = figure.add_axes((_LEFT, (top - tall) / height, _RIGHT - _LEFT, tall / height))
        _draw_panel(axis, panel, colours, unit, headings)
        top -= tall + _GAP
    figure.text(0.015, 1 - 0.16 / height, title, color=INK, fontsize=13.5, weight="bold", va="top")
    figure.text(0.015, 1 - 0.45 / height, subtitle, color=SOFT, fontsize=8.5, va="top", linespacing=1.4)
    if len(groups) > 1:
        handles = [axis.barh([0], [0], color=colours[group], label=group) for group in groups]
        corner = (0.99, 1 - 0.08 / height)
        figure.legend(
            handles=handles, loc="upper right", bbox_to_anchor=corner, ncols=len(groups), frameon=False, fontsize=9
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _draw_panel(axis: Axes, panel: Panel, colours: dict[str, str], unit: str, headings: Sequence[str]) -> None:
    bars, places = panel.bars, range(len(panel.bars))
    axis.set_xscale("log")
    axis.set_xlim(min(bar.value for bar in bars) / 2, max(bar.high for bar in bars) * 1.15)
    axis.set_ylim(len(bars) - 0.5, -0.5)
    axis.barh(places, [bar.value for bar in bars], color=[colours[bar.group] for bar in bars], height=0.66, zorder=2)
    for place, bar in zip(places, bars, strict=True):
        axis.plot([bar.value, bar.high], [place, place], color=INK, linewidth=1.1, zorder=3)
        axis.plot([bar.high], [place], marker="|", color=INK, markersize=7, zorder=3)
        for column, cell in enumerate(bar.cells):
            _write(axis, column, len(headings), place, cell, INK if column == 0 else SOFT, bar.bold)
    for column, heading in enumerate(headings):
        _write(axis, column, len(headings), -0.85, heading, SOFT, False)
    axis.set_yticks(places, [bar.label for bar in bars], fontsize=9, color=INK)
    for label, bar in zip(axis.get_yticklabels(), bars, strict=True):
        label.set_fontweight("bold" if bar.bold else "normal")
    axis.set_title(panel.title, loc="left", fontsize=10.5, color=INK, weight="bold", pad=5)
    decades = max(bar.high for bar in bars) / min(bar.value for bar in bars)
    axis.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if decades < 300 else (1,), numticks=12))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.annotate(unit, (1, 0), xytext=(4, -13), xycoords="axes fraction", textcoords="offset points")
    axis.texts[-1].set(color=SOFT, fontsize=8)
    axis.tick_params(axis="x", colors=SOFT, labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=GRID, linewidth=0.8, zorder=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(GRID)


def _write(axis: Axes, column: int, columns: int, place: float, text: str, colour: str, bold: bool) -> None:
    """Writes a cell to the right of the panel, set to the right edge of its column."""
    edge = (0.99 - _RIGHT) / (_RIGHT - _LEFT)  # the room there is, in widths of the panel
    axis.text(
        1 + edge * (column + 1) / columns,
        place,
        text,
        transform=axis.get_yaxis_transform(),
        ha="right",
        va="center",
        color=colour,
        fontsize=8.5,
        weight="bold" if bold else "normal",
        clip_on=False,
    )
