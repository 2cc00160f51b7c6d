"""What a policy's choice of rows is worth in the quality of scores: `bench cache --quality`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.bench.cache.policies import GSET, MIN, rows_of
from pepnet_infer.bench.cache.quality_log import Evicted, Mask, RequestLog, bundle_keys, read_log, run
from pepnet_infer.bench.harness.measure import Row, Say
from pepnet_infer.bench.harness.report import Report, Table
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.engine import Engine
from pepnet_infer.errors import BundleError
from pepnet_infer.export.data.source import Source
from pepnet_infer.rows.cache.config import Policy

#: What is compared with: these know how often an id is seen, not whether it matters.
BASES: tuple[Policy, ...] = ("lru", "lfu")
#: Fewer positives or negatives than this, and an AUC says little.
STABLE = 200
#: How many tasks are compared with the bases and drawn, in the order of the bundle.
COMPARED = 2
RESAMPLES = 100
_CHUNK = 8192
_SAYS: dict[Evicted, str] = {
    "refilled": "an evicted row comes back with its id's next exposure",
    "lost": "an evicted row is gone: its id begins again from the default row",
}

#: By task, float64 [bundles, 1 + RESAMPLES]: the AUC, then those of the resamples, which a compared task has.
Aucs = dict[str, npt.NDArray[np.float64]]


def measure_quality(
    paths: Sequence[Path],
    source: Source,
    first_test_day: int,
    capacities: Sequence[str],
    policies: Sequence[Policy],
    label_delay: float,
    say: Say,
) -> Report:
    """Returns what every policy's choice of rows costs in AUC.

    paths: bundles that differ in their seed only; caches are replayed once, each bundle scores what they served.
    capacities: as for a trace, shares being of the bundle's rows. label_delay: seconds. Raises BundleError for bundles
    with other rows or scores, SchemaError for a log that does not fit.
    """
    bundles = [Bundle.open(path) for path in paths]
    say("reading the log")
    log = read_log(bundles[0], source, first_test_day)
    _check_alike(bundles, paths, log)
    judge = _Judge(log, paths, bundles[0].tasks)
    first, accesses = int(log.offsets[log.test]), len(log.places)
    ends = [
        {"policy": name, "auc": _means(judge.aucs(np.full(accesses, hit)))}
        for name, hit in (("none of the rows", False), ("all of the rows", True))
    ]
    sizes: list[Row] = []
    in_order = sorted(policies, key=lambda name: name not in BASES)
    cases: dict[str, dict[str, list[Row]]] = {evicted: {policy: [] for policy in in_order} for evicted in _SAYS}
    for capacity in capacities:
        rows, hits = rows_of(capacity, len(log.keys)), np.zeros(accesses, np.bool_)
        _kernels.studies.belady(log.keys[log.places], rows, hits)
        sizes.append({"capacity": capacity, "rows": rows, "min_hit_rate": float(hits[first:].mean())})
        for evicted in _SAYS:
            bases: dict[str, Aucs] = {}
            for policy in in_order:
                say(f"{capacity} of the rows, {evicted}: {policy}")
                found, trained = run(log, policy, rows, evicted, label_delay)
                aucs = judge.aucs(trained)
                cases[evicted][policy].append(
                    {
                        "policy": policy,
                        "hit_rate": float(found[first:].mean()),
                        "trained_rate": float(trained[first:].mean()),
                        "auc": _means(aucs),
                        "over": {name: _over(aucs, base) for name, base in bases.items()},
                    }
                )
                if policy in BASES:
                    bases[policy] = aucs
    data = {
        "data": source.name,
        "bundles": len(bundles),
        "rows": len(log.keys),
        "exposures": {"training days": log.test, "test days": len(log.times) - log.test},
        "label_delay_s": label_delay,
        "tasks": judge.tasks,
        "ends": ends,
        "sizes": sizes,
        "cases": cases,
    }
    return _page(data)


def _check_alike(bundles: Sequence[Bundle], paths: Sequence[Path], log: RequestLog) -> None:
    for bundle, path in zip(bundles[1:], paths[1:], strict=True):
        keys, scores = bundle_keys(bundle)
        if bundle.schema != bundles[0].schema or not np.array_equal(keys, log.keys):
            raise BundleError(f"{path}: expected the schema and the ids of {paths[0]}, got others")
        if not np.allclose(scores, log.scores, rtol=1e-5):
            raise BundleError(f"{path}: expected the GSET scores of {paths[0]}, got others: of another log or setting")


class _Judge:
    """AUC on the test days, of all bundles, and of resamples of their users: how sure a difference is."""

    def __init__(self, log: RequestLog, paths: Sequence[Path], tasks: Sequence[str]) -> None:
        self._log = log
        self._engines = [Engine.load(path, cache=None) for path in paths]
        labels = log.labels[log.test :]
        positives = labels.sum(axis=0)
        self._columns = {
            task: column
            for column, task in enumerate(tasks)
            if min(positives[column], len(labels) - positives[column]) >= STABLE
        }
        self.tasks = list(self._columns)  #: those with enough positives and negatives
        _, users = np.unique(log.users[log.test :], return_inverse=True)
        # Poisson's bootstrap: every user counts so many times, with all their exposures. First everyone counts once.
        draws = np.random.default_rng(0).poisson(1.0, (RESAMPLES, users.max() + 1)).astype(np.float64)
        self._weights = [np.ones(len(labels)), *(draw[users] for draw in draws)]

    def aucs(self, hits: Mask) -> Aucs:
        """Returns the AUCs of what a cache with these hits, bool [len(places)], serves."""
        features, labels = self._log.test_features(hits), self._log.labels[self._log.test :]
        parts = [features.select(slice(at, at + _CHUNK)) for at in range(0, features.num_rows, _CHUNK)]
        scores = [np.concatenate([engine.score_features(part).values for part in parts]) for engine in self._engines]
        return {
            task: np.array(
                [
                    weighted_aucs(labels[:, at], values[:, at], self._weights[: RESAMPLES + 1 if n < COMPARED else 1])
                    for values in scores
                ]
            )
            for n, (task, at) in enumerate(self._columns.items())
        }


def weighted_aucs(labels: Mask, scores: npt.NDArray[np.float32], weights: Sequence[npt.NDArray[Any]]) -> list[float]:
    """Returns P(score of a positive > score of a negative), ties half, for each way to weight the N rows."""
    _, place = np.unique(scores, return_inverse=True)
    found = []
    for weight in weights:
        positive, negative = np.bincount(place, weight * labels), np.bincount(place, weight * ~labels)
        below = np.cumsum(negative) - negative
        found.append(float((positive * (below + 0.5 * negative)).sum() / (positive.sum() * negative.sum())))
    return found


def _means(aucs: Aucs) -> dict[str, Row]:
    """Returns by task the mean AUC and its deviation over bundles, None where there is one bundle."""
    return {
        task: {"mean": float(of[:, 0].mean()), "std": float(of[:, 0].std(ddof=1)) if len(of) > 1 else None}
        for task, of in aucs.items()
    }


def _over(aucs: Aucs, base: Aucs) -> dict[str, Row]:
    """Returns by compared task the AUC less that of `base`, mean over bundles, and half its 95 % interval."""
    found = {}
    for task in list(aucs)[:COMPARED]:
        whole, *drawn = (aucs[task] - base[task]).mean(axis=0).tolist()
        found[task] = {"auc": whole, "half_95": float(1.96 * np.std(drawn, ddof=1))}
    return found


def _page(data: dict[str, Any]) -> Report:
    after = data["exposures"]
    return Report(
        "cache-quality",
        f"What cached rows are worth on {data['data']}",
        f"{after['test days']:,} exposures of the test days after {after['training days']:,} to warm up on, "
        f"{data['rows']:,} rows, {data['bundles']} bundle(s).",
        data,
        [
            _table("Without a cache", data["ends"]),
            *(
                _table(
                    f"Memory for {size['capacity']} of the rows ({size['rows']:,}), {evicted}",
                    [cases[at] for cases in by.values()],
                    f"{evicted}: {_SAYS[evicted]}. MIN's hit rate: {100 * size['min_hit_rate']:.2f} %.",
                )
                for at, size in enumerate(data["sizes"])
                for evicted, by in data["cases"].items()
            ),
        ],
        notes=[
            f"gset: labels follow {data['label_delay_s']:g} s after the exposure; beta {GSET.beta}, r {GSET.r}, an "
            "interval of a day. ± beside an AUC: standard deviation over bundles; beside a difference: half its 95 % "
            f"interval by bootstrap over users, {RESAMPLES} resamples. trained: found with the row that training left."
        ],
        picture=lambda: _picture(data),
    )


def _table(title: str, cases: Sequence[Row], note: str = "") -> Table:
    rows, columns = [], {"policy": "{policy}"}
    for case in cases:
        cells = {"hit rate %": "hit_rate", "trained %": "trained_rate"}
        cells = {heading: f"{100 * case[name]:.2f}" for heading, name in cells.items() if name in case}
        for task, auc in case["auc"].items():
            cells[f"AUC {task}"] = f"{auc['mean']:.4f}" + ("" if auc["std"] is None else f" ± {auc['std']:.4f}")
        for base, over in case.get("over", {}).items():
            for task, one in over.items():
                cells[f"{task} − {base}'s, ×1000"] = f"{1e3 * one['auc']:+.1f} ± {1e3 * one['half_95']:.1f}"
        columns |= {heading: f"{{{heading}:}}" for heading in cells}
        rows.append({"policy": case["policy"], **cells})
    return Table(title, rows, columns, note)


def _picture(data: dict[str, Any]) -> bytes:
    """Returns a PNG: by memory, the rows found and the AUC of the compared tasks."""
    from pepnet_infer.bench.harness.pictures import Chart, Line, draw_lines

    xs = [float(size["rows"]) for size in data["sizes"]]
    ticks = [(float(size["rows"]), size["capacity"]) for size in data["sizes"]]
    charts = []
    for evicted, title, rate in (("refilled", "Hit rate", "hit_rate"), ("lost", "Trained rows found", "trained_rate")):
        by = data["cases"][evicted]
        lines = [Line(p, xs, [100 * case[rate] for case in cases], p) for p, cases in by.items()]
        if evicted == "refilled":
            lines.insert(0, Line(MIN, xs, [100 * size["min_hit_rate"] for size in data["sizes"]], MIN))
        charts.append(Chart(title, "memory, of all rows", "%", lines, ticks))
        for task in data["tasks"][:COMPARED]:
            lines = [Line(p, xs, [case["auc"][task]["mean"] for case in cases], p) for p, cases in by.items()]
            charts.append(Chart(f"AUC of {task}, {evicted}", "memory, of all rows", "AUC", lines, ticks))
    says = "; ".join(f"{name}: {meaning}" for name, meaning in _SAYS.items())
    tested = data["exposures"]["test days"]
    subtitle = f"{tested:,} exposures of the test days, {data['bundles']} bundle(s).\n{says}."
    return draw_lines(f"What cached rows are worth on {data['data']}", subtitle, charts)
