"""What `online.py` measured, as tables and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.export.train.metrics import auc

RESAMPLES = 200


@dataclass(frozen=True)
class ModelVersion:
    """N exposures after the first day and what V engines scored for one task."""

    labels: npt.NDArray[np.bool_]  # [N]
    scores: npt.NDArray[np.float32]  # [V, N]
    days: npt.NDArray[np.int64]  # [N], 1 for the second
    users: npt.NDArray[np.int64]  # [N]
    pages: npt.NDArray[np.int64]  # [N]

    def by(self, groups: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Returns AUC [G, V] within each group, and how many exposures each has [G]."""
        values, counts = np.unique(groups, return_counts=True)
        parts = [groups == value for value in values]
        return np.array([[auc(self.labels[part], s[part]) for s in self.scores] for part in parts]), counts

    def in_all(self) -> npt.NDArray[np.float64]:
        """Returns AUC [V] over all days."""
        return self.by(np.zeros_like(self.days))[0][0]

    def within_pages(self) -> npt.NDArray[np.float64]:
        """Returns AUC [V] inside a page, mean over pages by exposures: which page it is, is worth nothing here."""
        values, counts = self.by(self.pages)
        known = np.isfinite(values).all(1)
        return np.asarray(np.average(values[known], axis=0, weights=counts[known]))

    def differences(self, pairs: Sequence[tuple[int, int]], seed: int = 0) -> list[str]:
        """Returns for pairs of engines the first's AUC over the second's × 1000, ± half its 95 % interval.

        By Poisson's bootstrap over users: each counts so many times, with all their exposures.
        """
        places = [np.unique(scores, return_inverse=True)[1] for scores in self.scores]
        rng, drawn = np.random.default_rng(seed), np.empty((RESAMPLES, len(places)))
        for draw in drawn:
            weights = rng.poisson(1.0, self.users.max() + 1).astype(np.float64)[self.users]
            draw[:] = [_weighted_auc(place, self.labels, weights) for place in places]
        whole = 1000 * self.in_all()
        spread = [1960 * np.std(drawn[:, a] - drawn[:, b], ddof=1) for a, b in pairs]
        return [f"{whole[a] - whole[b]:+.1f} ± {half:.1f}" for (a, b), half in zip(pairs, spread, strict=True)]


def _weighted_auc(place: npt.NDArray[Any], labels: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64]) -> float:
    positive, negative = np.bincount(place, weights * labels), np.bincount(place, weights * ~labels)
    below = np.cumsum(negative) - negative
    return float((positive * (below + 0.5 * negative)).sum() / (positive.sum() * negative.sum()))


def tables(names: Sequence[str], tasks: Mapping[str, ModelVersion], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Returns two tables: AUC by day of the first task, then over all days of each; and differences of pairs."""
    task, first = next(iter(tasks.items()))
    values, counts = first.by(first.days)
    days = np.unique(first.days) + 1
    rows = [[f"day {d}", f"{n:,}", *(f"{v:.4f}" for v in day)] for d, n, day in zip(days, counts, values, strict=True)]
    for name, served in tasks.items():
        rows.append([f"**{name}, all days**", f"{len(served.days):,}", *(f"**{v:.4f}**" for v in served.in_all())])
        rows.append([f"{name}, within a page", "", *(f"{value:.4f}" for value in served.within_pages())])
    places = [(names.index(a), names.index(b)) for a, b in pairs]
    columns = zip(*(served.differences(places) for served in tasks.values()), strict=True)
    apart = [[f"{a} − {b}", *cells] for (a, b), cells in zip(pairs, columns, strict=True)]
    heads = [f"AUC of {task}", "exposures", *names], ["AUC × 1000, all days", *tasks]
    return [_markdown(head, lines) for head, lines in zip(heads, (rows, apart), strict=True)]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(path: Path, title: str, names: Sequence[str], panels: Sequence[Sequence[str]], served: ModelVersion) -> None:
    """Draws AUC by day to a PNG, one panel for each list of engines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 3.9), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    values, days = served.by(served.days)[0], np.unique(served.days) + 1
    for axis, panel in zip(axes, panels, strict=True):
        for at in map(names.index, panel):
            axis.plot(days, values[:, at], marker="o", markersize=3.5, label=names[at], color=f"C{at}")
        axis.set(xlabel="day of the log", ylabel="AUC")
        axis.legend(frameon=False, fontsize=8.5)
        axis.grid()
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, format="png", dpi=90, metadata={"Software": None})
