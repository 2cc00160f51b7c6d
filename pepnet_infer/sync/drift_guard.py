"""The drift guard: new dense weights go live only if they score recent rows much as the old ones do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic

import numpy as np
import numpy.typing as npt

from pepnet_infer.encode.features import Features
from pepnet_infer.errors import UpdateError
from pepnet_infer.process import forks
from pepnet_infer.process.pace import Rest, no_rest
from pepnet_infer.sync.follow_config import Guard
from pepnet_infer.versions.model_version import ModelVersion

_BINS = 10
_LEAST_SHARE = 1e-4  # the share of an empty bin, so that the index stays finite


class DriftGuard(forks.OwnLock):
    """Keeps the features of some rows of recent calls, so that a trial looks their embedding rows up anew."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self.guard = guard
        #: Each part, and how many rows were kept up to its end: one entry, so that no interrupt leaves a wrong total.
        self._kept: deque[tuple[int, Features]] = deque()
        self._due = 0.0
        self._random = np.random.default_rng(0)

    def offer(self, make: Callable[[], Features]) -> None:
        """Keeps some rows of a call, now and then; only then are its features made. Cheap, because every call asks."""
        if monotonic() < self._due:
            return
        guard = self.guard
        with self.lock:
            if monotonic() < self._due:  # a call that came at the same moment was first
                return
            self._due = monotonic() + guard.every_s
        features = make()
        if features.num_rows == 0:
            return
        with self.lock:
            count = min(features.num_rows, guard.batch_rows)
            picked = np.sort(self._random.choice(features.num_rows, count, replace=False))
            end = (self._kept[-1][0] if self._kept else 0) + count
            self._kept.append((end, features.select(picked)))
            while end - self._kept[0][0] >= guard.rows:
                self._kept.popleft()

    def check(self, old: ModelVersion, new: ModelVersion, tasks: Sequence[str], rest: Rest = no_rest) -> bool:
        """Returns whether there were rows enough to say anything.

        Raises UpdateError with reason "drift" when the new version scores them too differently.
        """
        with self.lock:
            kept = [part for _, part in self._kept]
        if sum(part.num_rows for part in kept) < self.guard.least_rows:
            return False
        scores = []
        for served in (old, new):
            parts = []
            for features in kept:
                parts.append(served.backend.run(served.assembler.inputs(features)))
                rest()
            scores.append(np.concatenate(parts))
        most = self.guard
        for task, before, after in zip(tasks, *(part.T for part in scores), strict=True):
            known = np.isfinite(before)  # a row may be NaN in the store, whatever the weights are
            before, after = before[known], after[known]
            if not np.isfinite(after).all():
                raise UpdateError("drift", f"task {task}: expected finite scores of recent rows, got NaN or infinity")
            moved = abs(float(after.mean(dtype=np.float64)) - float(before.mean(dtype=np.float64)))
            if moved > most.mean:
                raise UpdateError("drift", f"task {task}: expected a mean score within {most.mean:g}, got {moved:.4g}")
            if (index := stability_index(before, after)) > most.psi:
                raise UpdateError("drift", f"task {task}: expected a PSI of at most {most.psi:g}, got {index:.4g}")
        return True


def stability_index(before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]) -> float:
    """Returns the population stability index Σ (q − p)·ln(q / p) over the deciles of `before`.

    p and q are the shares of `before` and `after` in each. Where many scores are equal there are fewer bins.
    """
    edges = np.unique(np.quantile(before, np.arange(1, _BINS) / _BINS))
    shares = []
    for scores in (before, after):
        counts = np.bincount(np.searchsorted(edges, scores, side="right"), minlength=len(edges) + 1)
        shares.append(np.maximum(counts / max(len(scores), 1), _LEAST_SHARE))
    p, q = shares
    return float(((q - p) * np.log(q / p)).sum())
