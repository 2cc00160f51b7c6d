"""The result of a training run: as JSON, as tables for a terminal, and as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pepnet_infer.export.data.dataset import Dataset
from pepnet_infer.export.run_config import TrainConfig
from pepnet_infer.export.train.compare import Outcome
from pepnet_infer.export.train.evaluate import ALL, Cell, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNSTABLE = "≈"


def report_json(data: str, dataset: Dataset, settings: TrainConfig, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Returns the whole report as plain JSON. Metrics are of the test days."""
    return {
        "data": data,
        "rows": {
            "fit": len(dataset.fit),
            "validation": len(dataset.validation),
            "train": len(dataset.train),
            "test": len(dataset.test),
        },
        "train": settings.to_json(),
        "notes": list(dataset.notes),
        "min_positives": settings.min_positives,
        "models": [outcome.to_json() for outcome in outcomes],
    }


def show(console: Console, dataset: Dataset, settings: TrainConfig, outcomes: Sequence[Outcome]) -> None:
    """Prints what a person wants to see first: one model by task and domain, or several models side by side."""
    for note in dataset.notes:
        console.print(f"note: {note}", markup=False)
    if len(outcomes) == 1:
        console.print(_task_table(outcomes[0]))
        console.print(_domain_table(outcomes[0]))
    else:
        console.print(_model_table(outcomes, "auc"))
        console.print(_model_table(outcomes, "gauc"))
    console.print(
        f"Test days, {len(dataset.test):,} rows; mean ± standard deviation of {len(outcomes[0].seeds)} seed(s)."
        f" {_UNSTABLE} fewer than {settings.min_positives} positives or negatives: not stable.",
        style="dim",
        highlight=False,
    )


def _task_table(outcome: Outcome) -> Table:
    table = Table(title=f"{outcome.name}: {_epochs(outcome)}")
    for name in ("task", "positives", "AUC", "GAUC"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for cell in _overall(outcome):
        table.add_row(cell.task, f"{cell.positives:,}", _value(cell, "auc"), _value(cell, "gauc"))
    return table


def _domain_table(outcome: Outcome) -> Table:
    tasks = [cell.task for cell in _overall(outcome)]
    table = Table(title="AUC by domain", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("domain", "rows", *tasks):
        table.add_column(name, justify="right", no_wrap=True, overflow="fold")
    for domain in dict.fromkeys(cell.domain for cell in outcome.cells):
        cells = [cell for cell in outcome.cells if cell.domain == domain]
        table.add_row(escape(domain), f"{cells[0].rows:,}", *(_value(cell, "auc", spread=False) for cell in cells))
    return table


def _model_table(outcomes: Sequence[Outcome], metric: str) -> Table:
    table = Table(title=f"{metric.upper()}, all domains", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for cell in _overall(outcomes[0]):
        table.add_column(cell.task, justify="right", no_wrap=True, overflow="fold")
    for outcome in outcomes:
        values = [_value(cell, metric).replace(" ", "\n") for cell in _overall(outcome)]  # the spread below the mean
        table.add_row(outcome.name, *values)
    return table


def _overall(outcome: Outcome) -> list[Cell]:
    return [cell for cell in outcome.cells if cell.domain == ALL]


def _epochs(outcome: Outcome) -> str:
    return f"epochs {', '.join(map(str, outcome.epochs))}; seeds {', '.join(map(str, outcome.seeds))}"


def _value(cell: Cell, metric: str, spread: bool = True) -> str:
    stats = summary(cell.auc if metric == "auc" else cell.gauc)
    if stats["mean"] is None:
        return "–"
    text = f"{stats['mean']:.4f}"
    if spread and stats["std"] is not None:
        text += f" ±{stats['std']:.4f}"
    return text if cell.stable else f"[dim]{_UNSTABLE}{text}[/]"


def plot(outcomes: Sequence[Outcome]) -> bytes:
    """Returns a PNG: AUC per task of every model, and of the first model per domain, with deviations over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 4.5), layout="constrained")
    _points(left, {outcome.name: _overall(outcome) for outcome in outcomes})
    left.set_title("AUC on the test days, all domains")
    largest = list(dict.fromkeys(cell.domain for cell in outcomes[0].cells))[:6]
    _points(right, {domain: [c for c in outcomes[0].cells if c.domain == domain] for domain in largest})
    right.set_title(f"{outcomes[0].name} by domain; pale: not stable")
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=120)
    pyplot.close(figure)
    return target.getvalue()


def _points(axes: Axes, groups: dict[str, list[Cell]]) -> None:
    """Draws a point per task and entry of `groups`; pale where an AUC is not stable."""
    step = 0.7 / len(groups)
    colours = _colours(len(groups))
    tasks = [cell.task for cell in next(iter(groups.values()))]
    for n, (name, cells) in enumerate(groups.items()):
        axes.plot([], [], "o", color=colours[n], label=name)  # the legend's entry, whatever is defined below
        for t, cell in enumerate(cells):
            stats = summary(cell.auc)
            if stats["mean"] is None:
                continue
            axes.errorbar(
                t - 0.35 + (n + 0.5) * step,
                stats["mean"],
                yerr=stats["std"] or 0.0,
                fmt="o",
                markersize=4,
                color=colours[n],
                alpha=1.0 if cell.stable else 0.3,
            )
    axes.axhline(0.5, color="black", linewidth=0.8)
    for t in range(1, len(tasks)):
        axes.axvline(t - 0.5, color="lightgrey", linewidth=0.6)
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_ylabel("AUC")
    axes.legend(fontsize="small", ncols=2)


def _colours(count: int) -> list[Any]:
    import matplotlib

    return list(matplotlib.colormaps["viridis"](np.linspace(0.05, 0.9, count)))
