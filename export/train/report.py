"""The result of a training run: as JSON, as tables for a terminal, and as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from pepnet_infer.export.data.dataset import Dataset
from pepnet_infer.export.run_config import TrainConfig
from pepnet_infer.export.train.compare import Outcome
from pepnet_infer.export.train.metrics import ALL, Cell, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNSTABLE = "≈"


def report_json(data: str, dataset: Dataset, settings: TrainConfig, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Returns the whole report as plain JSON. Metrics are of the test days."""
    return {
        "data": data,
        "rows": {part: len(getattr(dataset, part)) for part in ("fit", "validation", "train", "test")},
        "train": msgspec.to_builtins(settings),
        "notes": list(dataset.notes),
        "min_positives": settings.min_positives,
        "models": [outcome.to_json() for outcome in outcomes],
    }


#: What a table is: its title, heading and rows.
Table = tuple[str, tuple[str, ...], Sequence[tuple[str, ...]]]


def tables(outcomes: Sequence[Outcome]) -> list[Table]:
    """Returns what a person wants to see first: one model by task and domain, or several models side by side."""
    tasks = tuple(cell.task for cell in _overall(outcomes[0]))
    if len(outcomes) > 1:
        by_model = {
            metric: [(outcome.name, *(_value(cell, metric) for cell in _overall(outcome))) for outcome in outcomes]
            for metric in ("auc", "gauc")
        }
        return [(f"{metric.upper()}, all domains", ("model", *tasks), rows) for metric, rows in by_model.items()]
    (outcome,) = outcomes
    overall = [
        (cell.task, f"{cell.positives:,}", _value(cell, "auc"), _value(cell, "gauc")) for cell in _overall(outcome)
    ]
    domains = []
    for domain in dict.fromkeys(cell.domain for cell in outcome.cells):
        cells = [cell for cell in outcome.cells if cell.domain == domain]
        domains.append((domain, f"{cells[0].rows:,}", *(_value(cell, "auc", spread=False) for cell in cells)))
    title = f"{outcome.name}: epochs {', '.join(map(str, outcome.epochs))}; seeds {', '.join(map(str, outcome.seeds))}"
    return [
        (title, ("task", "positives", "AUC", "GAUC"), overall),
        ("AUC by domain", ("domain", "rows", *tasks), domains),
    ]


def notes(dataset: Dataset, settings: TrainConfig, outcomes: Sequence[Outcome]) -> list[str]:
    """Returns what to know of the data, and how to read the tables."""
    return [
        *(f"note: {note}" for note in dataset.notes),
        f"Test days, {len(dataset.test):,} rows; mean ± standard deviation of {len(outcomes[0].seeds)} seed(s)."
        f" {_UNSTABLE} fewer than {settings.min_positives} positives or negatives: not stable.",
    ]


def _overall(outcome: Outcome) -> list[Cell]:
    return [cell for cell in outcome.cells if cell.domain == ALL]


def _value(cell: Cell, metric: str, spread: bool = True) -> str:
    stats = summary(cell.auc if metric == "auc" else cell.gauc)
    if stats["mean"] is None:
        return "–"
    text = f"{stats['mean']:.4f}"
    if spread and stats["std"] is not None:
        text += f" ±{stats['std']:.4f}"
    return text if cell.stable else f"{_UNSTABLE}{text}"


def plot(outcomes: Sequence[Outcome]) -> bytes:
    """Returns a PNG: AUC per task of every model, and of the first model per domain, with deviations over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _points(left, {outcome.name: _overall(outcome) for outcome in outcomes})
    left.set_title("AUC on the test days, all domains")
    largest = list(dict.fromkeys(cell.domain for cell in outcomes[0].cells))[:6]
    _points(right, {domain: [c for c in outcomes[0].cells if c.domain == domain] for domain in largest})
    right.set_title(f"{outcomes[0].name} by domain; pale: not stable")
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=120)
    return target.getvalue()


def _points(axes: Axes, groups: dict[str, list[Cell]]) -> None:
    """Draws a point per task and entry of `groups`; pale where an AUC is not stable."""
    from matplotlib import colormaps

    step = 0.7 / len(groups)
    colours = colormaps["viridis"](np.linspace(0.05, 0.9, len(groups)))
    tasks = [cell.task for cell in next(iter(groups.values()))]
    for n, (name, cells) in enumerate(groups.items()):
        axes.plot([], [], "o", color=colours[n], label=name)  # the legend's entry, whatever is defined below
        for t, cell in enumerate(cells):
            stats = summary(cell.auc)
            if stats["mean"] is None:
                continue
            x, spread, pale = t - 0.35 + (n + 0.5) * step, stats["std"] or 0.0, 1.0 if cell.stable else 0.3
            axes.errorbar(x, stats["mean"], spread, fmt="o", markersize=4, color=colours[n], alpha=pale)
    axes.axhline(0.5, color="black", linewidth=0.8)
    for t in range(1, len(tasks)):
        axes.axvline(t - 0.5, color="lightgrey", linewidth=0.6)
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_ylabel("AUC")
    axes.legend(fontsize="small", ncols=2)
