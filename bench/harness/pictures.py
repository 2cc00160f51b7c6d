"""Pictures of results as PNG: charts of lines."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from matplotlib.figure import Figure

#: Colours of the groups in order; Okabe and Ito's palette, which people with colour blindness can tell apart.
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


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
    """A panel of lines. `ticks`: the places named on a logarithmic x axis, none for a linear one; `log`: of y."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    ticks: Sequence[tuple[float, str]] = ()
    log: bool = False


def draw_lines(title: str, subtitle: str, charts: Sequence[Chart]) -> bytes:
    """Returns a PNG with three charts beside each other. Raises ValueError for lines with more xs than ys, or fewer."""
    groups = dict.fromkeys(line.group for chart in charts for line in chart.lines)
    colours = dict(zip(groups, cycle(_PALETTE), strict=False)) | {"MIN": "black"}
    columns = min(3, len(charts))
    rows = -(-len(charts) // columns)
    figure = Figure(figsize=(max(10.5, 4.4 * columns), 1.4 + 3.5 * rows), layout="constrained")
    figure.suptitle(f"{title}\n{subtitle}", x=0.01, ha="left", fontsize=9)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    labelled = {}
    for axis, chart in zip(axes, charts, strict=False):
        axis.set(title=chart.title, xlabel=chart.x, ylabel=chart.y)
        axis.set_yscale("log" if chart.log else "linear")
        for line in chart.lines:
            style = "--" if line.dashed else "-"
            (labelled[line.label],) = axis.plot(
                line.xs, line.ys, color=colours[line.group], linestyle=style, marker="o", markersize=3
            )
        if chart.ticks:
            axis.set_xscale("log")
            axis.set_xticks([x for x, _ in chart.ticks], [name for _, name in chart.ticks])
        axis.minorticks_off()
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.grid()
    for axis in axes[len(charts) :]:
        axis.set_axis_off()
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=6, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()
