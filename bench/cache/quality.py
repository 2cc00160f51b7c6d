"""What a policy's choice of rows is worth in the quality of scores: `pepnet-infer bench cache --quality`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.bench.cache.policies import Policy
from pepnet_infer.bench.cache.quality_log import GSET, RequestLog, bundle_keys, read_log
from pepnet_infer.bench.cache.quality_page import BASES, quality_page
from pepnet_infer.bench.cache.quality_run import Evicted, Setting, most_hits, run
from pepnet_infer.bench.harness import machine
from pepnet_infer.bench.harness.measure import Say
from pepnet_infer.bench.harness.report import Report
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.engine import Engine
from pepnet_infer.errors import BundleError
from pepnet_infer.export.data.source import Source
from pepnet_infer.export.train.metrics import auc

#: Fewer positives or negatives than this, and an AUC says little.
STABLE = 200
_CHUNK = 8192

Scores = list[npt.NDArray[np.float32]]  # per bundle, [test rows, T]


@dataclass(frozen=True)
class QualityPlan:
    """What is replayed. shares: of the bundle's rows that the cache holds. resamples: of users, for the intervals."""

    policies: Sequence[Policy]
    shares: Sequence[float]
    evicted: Sequence[Evicted]
    label_delay: float = 600.0
    first_test_day: int | None = None
    resamples: int = 100
    threads: int | None = None
    seed: int = 0


def measure_quality(paths: Sequence[Path], source: Source, plan: QualityPlan, say: Say) -> Report:
    """Returns what every policy's choice of rows costs in AUC.

    paths: bundles that differ in their seed only; caches are replayed once, each bundle scores what they served.
    Raises BundleError for bundles with other rows or scores, SchemaError for a log that does not fit.
    """
    bundles = [Bundle.open(path) for path in paths]
    say("reading the log")
    log = read_log(bundles[0], source, plan.first_test_day)
    _check_alike(bundles, paths, log)
    engines = [Engine.load(path, cache=None, threads=plan.threads) for path in paths]
    judge = Judge(log, bundles[0].tasks, plan)
    first = log.offsets[log.test]
    nothing, everything = (np.full(len(log.places), value) for value in (False, True))
    ends = {name: judge.cells(_scores(engines, log, hits)) for name, hits in (("none", nothing), ("all", everything))}
    cases: list[dict[str, Any]] = []
    best: dict[str, float] = {}
    for share in plan.shares:
        rows = round(share * len(log.keys))
        best[f"{share:g}"] = float(most_hits(log, rows)[first:].mean())
        for evicted in plan.evicted:
            bases: dict[str, Scores] = {}
            for policy in sorted(plan.policies, key=lambda name: name not in BASES):
                say(f"{share:.0%} of the rows, {evicted}; {policy}")
                served = run(log, Setting(policy, rows, evicted, plan.label_delay, plan.seed))
                scores = _scores(engines, log, served.trained)
                against = {base: judge.differences(scores, theirs) for base, theirs in bases.items()}
                if policy in BASES:
                    bases[policy] = scores
                cases.append(
                    {
                        "share": share,
                        "rows": rows,
                        "evicted": evicted,
                        "policy": policy,
                        "hit_rate": float(served.found[first:].mean()),
                        "trained_rate": float(served.trained[first:].mean()),
                        "cells": judge.cells(scores),
                        "against": against,
                    }
                )
    data = {
        "data": source.name,
        "bundles": len(bundles),
        "meta": [dict(bundle.manifest.get("meta", {})) for bundle in bundles],
        "rows": len(log.keys),
        "exposures": {"training days": log.test, "test days": len(log.times) - log.test},
        "accesses": {"training days": int(first), "test days": len(log.places) - int(first)},
        "gset": {"beta": GSET.beta, "r": GSET.r, "interval_s": GSET.interval, "label_delay_s": plan.label_delay},
        "resamples": plan.resamples,
        "tasks": judge.stable,
        "min_hit_rate": best,
        "ends": ends,
        "cases": cases,
    }
    return quality_page(data, machine.facts())


def _check_alike(bundles: Sequence[Bundle], paths: Sequence[Path], log: RequestLog) -> None:
    for bundle, path in zip(bundles[1:], paths[1:], strict=True):
        keys, scores = bundle_keys(bundle)
        if bundle.schema != bundles[0].schema or not np.array_equal(keys, log.keys):
            raise BundleError(f"{path}: expected the schema and the ids of {paths[0]}, got others")
        if not np.allclose(scores, log.scores, rtol=1e-5):
            raise BundleError(f"{path}: expected the GSET scores of {paths[0]}, got others: of another log or setting")


def _scores(engines: Sequence[Engine], log: RequestLog, hits: npt.NDArray[np.bool_]) -> Scores:
    features = log.served(hits)
    chunks = [slice(at, at + _CHUNK) for at in range(0, features.num_rows, _CHUNK)]
    parts = [features.select(chunk) for chunk in chunks]
    return [np.concatenate([engine.score_features(part).values for part in parts]) for engine in engines]


class Judge:
    """AUC on the test days: per stable task, pooled and per domain, and how sure a difference is."""

    def __init__(self, log: RequestLog, tasks: Sequence[str], plan: QualityPlan) -> None:
        self._labels = log.labels[log.test :]
        self._domains = log.domains[log.test :]
        positives = self._labels.sum(axis=0)
        enough = np.minimum(positives, len(self._labels) - positives) >= STABLE
        self.stable = [task for task, is_stable in zip(tasks, enough, strict=True) if is_stable]
        self._columns = [tasks.index(task) for task in self.stable]
        _, users = np.unique(log.users[log.test :], return_inverse=True)
        rng = np.random.default_rng(plan.seed)
        # Poisson's bootstrap: every user counts so many times, with all their exposures.
        draws = rng.poisson(1.0, (plan.resamples, users.max() + 1)).astype(np.float64)
        self._weights = [draw[users] for draw in draws]

    def cells(self, scores: Scores) -> list[dict[str, Any]]:
        """Returns task, domain ("all" first), rows, positives, mean AUC and deviation over bundles."""
        cells = []
        for task, column, domain, inside in self._places():
            labels = self._labels[inside, column]
            values = [auc(labels, part[inside, column]) for part in scores]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            cells.append(
                {
                    "task": task,
                    "domain": domain,
                    "rows": len(labels),
                    "positives": int(labels.sum()),
                    "auc": float(np.mean(values)),
                    "std": spread,
                }
            )
        return cells

    def differences(self, scores: Scores, base: Scores) -> list[dict[str, Any]]:
        """Returns per task the pooled AUC over that of `base`, mean over bundles, and half its 95 % interval."""
        found = []
        for task, column in zip(self.stable, self._columns, strict=True):
            labels = self._labels[:, column]
            pairs = [(Ranked(labels, ours[:, column]), Ranked(labels, theirs[:, column]))
                     for ours, theirs in zip(scores, base, strict=True)]  # fmt: skip
            drawn = [np.mean([a.auc(w) - b.auc(w) for a, b in pairs]) for w in self._weights]
            whole = np.ones(len(labels))
            found.append(
                {
                    "task": task,
                    "auc": float(np.mean([a.auc(whole) - b.auc(whole) for a, b in pairs])),
                    "half_95": float(1.96 * np.std(drawn, ddof=1)),
                }
            )
        return found

    def _places(self) -> Iterator[tuple[str, int, str, npt.NDArray[np.bool_]]]:
        everywhere = np.ones(len(self._labels), bool)
        names, counts = np.unique(self._domains.astype(str), return_counts=True)
        for task, column in zip(self.stable, self._columns, strict=True):
            yield task, column, "all", everywhere
            for name in names[np.argsort(-counts, kind="stable")]:
                inside = self._domains.astype(str) == name
                positives = int(self._labels[inside, column].sum())
                if min(positives, int(inside.sum()) - positives) >= STABLE:
                    yield task, column, str(name), inside


class Ranked:
    """Scores sorted once, for AUCs under many weightings of the rows."""

    def __init__(self, labels: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32]) -> None:
        self._labels = labels
        _, self._place = np.unique(scores, return_inverse=True)

    def auc(self, weights: npt.NDArray[np.float64]) -> float:
        """Returns P(score of a positive > score of a negative), ties half, rows counting `weights` [N]."""
        positive = np.bincount(self._place, weights * self._labels)
        negative = np.bincount(self._place, weights * ~self._labels)
        below = np.cumsum(negative) - negative
        return float((positive * (below + 0.5 * negative)).sum() / (positive.sum() * negative.sum()))
