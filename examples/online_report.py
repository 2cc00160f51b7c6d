"""What `online.py` measured, as a table and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pepnet_infer.export.train.metrics import auc

RESAMPLES = 200
_COLOURS = ("#5b6675", "#E69F00", "#56B4E9", "#0072B2", "#009E73", "#CC79A7", "#D55E00")


@dataclass(frozen=True)
class Exposures:
    """N exposures after the first day and what V variants scored for one task."""

    labels: npt.NDArray[np.bool_]  # [N]
    scores: npt.NDArray[np.float32]  # [V, N]
    days: npt.NDArray[np.int64]  # [N], 1 for the second
    users: npt.NDArray[np.int64]  # [N]
    pages: npt.NDArray[np.int64]  # [N]

    def by_day(self) -> npt.NDArray[np.float64]:
        """Returns AUC [days, V]."""
        rows = [np.flatnonzero(self.days == day) for day in np.unique(self.days)]
        return np.array([[auc(self.labels[some], scores[some]) for scores in self.scores] for some in rows])

    def in_all(self) -> npt.NDArray[np.float64]:
        """Returns AUC [V] over all days."""
        return np.array([auc(self.labels, scores) for scores in self.scores])

    def within_pages(self) -> npt.NDArray[np.float64]:
        """Returns AUC [V] inside a page, mean over pages by exposures: which page it is, is worth nothing here."""
        values, weights = [], []
        for page in np.unique(self.pages):
            some = np.flatnonzero(self.pages == page)
            of_page = [auc(self.labels[some], scores[some]) for scores in self.scores]
            if np.isfinite(of_page).all():
                values.append(of_page)
                weights.append(len(some))
        return np.asarray(np.average(values, axis=0, weights=weights))

    def differences(self, pairs: Sequence[tuple[int, int]], seed: int = 0) -> list[tuple[float, float]]:
        """Returns for pairs of variants the first's AUC over the second's, and half its 95 % interval.

        By Poisson's bootstrap over users: each counts so many times, with all their exposures.
        """
        places = [np.unique(scores, return_inverse=True)[1] for scores in self.scores]
        rng = np.random.default_rng(seed)
        drawn = np.empty((RESAMPLES, len(places)))
        for draw in drawn:
            weights = rng.poisson(1.0, self.users.max() + 1).astype(np.float64)[self.users]
            draw[:] = [_weighted_auc(place, self.labels, weights) for place in places]
        whole = self.in_all()
        return [(float(whole[a] - whole[b]), float(1.96 * np.std(drawn[:, a] - drawn[:, b], ddof=1))) for a, b in pairs]


def _weighted_auc(
    place: npt.NDArray[np.int64], labels: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64]
) -> float:
    positive = np.bincount(place, weights * labels)
    negative = np.bincount(place, weights * ~labels)
    below = np.cumsum(negative) - negative
    return float((positive * (below + 0.5 * negative)).sum() / (positive.sum() * negative.sum()))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table, all but its first column set to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table(names: Sequence[str], tasks: dict[str, Exposures]) -> str:
    """Returns AUC by day of the first task, then over all days of each."""
    first = next(iter(tasks.values()))
    days, counts = np.unique(first.days, return_counts=True)
    rows = [
        [f"day {day + 1}", f"{count:,}", *(f"{value:.4f}" for value in values)]
        for day, count, values in zip(days, counts, first.by_day(), strict=True)
    ]
    for task, served in tasks.items():
        rows.append([f"**{task}, all days**", f"{len(served.days):,}", *(f"**{v:.4f}**" for v in served.in_all())])
        rows.append([f"{task}, within a page", "", *(f"{value:.4f}" for value in served.within_pages())])
    return markdown([f"AUC of {next(iter(tasks))}", "exposures", *names], rows)


def compared(names: Sequence[str], tasks: dict[str, Exposures], pairs: Sequence[tuple[str, str]]) -> str:
    """Returns differences of AUC over all days × 1000, each ± half its 95 % interval."""
    places = [(names.index(a), names.index(b)) for a, b in pairs]
    found = {task: served.differences(places) for task, served in tasks.items()}
    rows = [
        [f"{a} − {b}", *(f"{1000 * found[task][n][0]:+.1f} ± {1000 * found[task][n][1]:.1f}" for task in tasks)]
        for n, (a, b) in enumerate(pairs)
    ]
    return markdown(["AUC × 1000, all days", *tasks], rows)


def plot(
    path: Path,
    title: str,
    names: Sequence[str],
    panels: Sequence[Sequence[str]],
    days: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
) -> None:
    """Draws AUC [days, V] to a PNG, one panel for each list of variants."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 3.9), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        for name in panel:
            at = names.index(name)
            axis.plot(days, values[:, at], color=_COLOURS[at % len(_COLOURS)], marker="o", markersize=3.5, label=name)
        axis.set_xlabel("day of the log")
        axis.grid(color="#e3e7ec", linewidth=0.8)
        axis.legend(
            frameon=False, fontsize=8.5, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, columnspacing=1.2
        )
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0].set_ylabel("AUC")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    figure.savefig(path, format="png", dpi=90, metadata={"Software": None})
