"""Policies against each other and against MIN on one trace, by the code that serves: `bench cache --trace`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from time import perf_counter
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.bench.cache.trace import Trace
from pepnet_infer.bench.harness import machine
from pepnet_infer.bench.harness.measure import Row, Say
from pepnet_infer.bench.harness.report import METHOD, Report, Table
from pepnet_infer.errors import PepnetError

Policy = Literal["lru", "gset", "lfu", "sieve", "s3fifo"]
POLICIES: tuple[Policy, ...] = ("lru", "gset", "lfu", "sieve", "s3fifo")
#: Policies whose rows are ordered by a score that decays.
SCORED = frozenset({"gset", "lfu"})
MIN = "MIN"
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "B": 1}
_COLUMNS = {
    "policy": "{policy}",
    "ways": "{ways}",
    "hit rate %": "{hit_percent:.2f}",
    "LRU→MIN closed": "{gap_closed:.1%}",
    "points from full": "{points_from_full:+.2f}",
    "ns an access": "{ns_an_access:.0f}",
}


@dataclass(frozen=True)
class Scoring:
    """How scores move: S ← (1-beta)·S + beta·(r·c⁺ + c⁻) an interval.

    interval, label_delay: seconds for a trace with times; without, accesses, and an interval is as many accesses as
    the cache has rows unless it is given. Labels become known in steps of label_delay.
    """

    beta: float = 0.1
    r: float = 3.0
    interval: float | None = None
    label_delay: float | None = None

    def interval_of(self, trace: Trace, rows: int) -> float:
        """Returns the interval in the trace's unit of time for a cache of `rows` rows."""
        return self.interval or (86_400.0 if trace.time is not None else float(rows))

    def delay_of(self, trace: Trace) -> float:
        """Returns the step in which labels become known, in the trace's unit of time."""
        return self.label_delay or (60.0 if trace.time is not None else 1000.0)


@dataclass(frozen=True)
class Plan:
    """What is replayed. capacities: rows, "10%" of the distinct ids, or "64MiB" of rows of `dim` float32."""

    capacities: Sequence[str]
    policies: Sequence[Policy]
    ways: Sequence[str]  # of "full", "auto"
    dim: int = 40
    scoring: Scoring = field(default_factory=Scoring)


def rows_of(capacity: str, distinct: int, dim: int) -> int:
    """Returns the rows that a capacity means. Raises PepnetError for what is none, and for less than one row."""
    text = capacity.strip()
    expected = f"--capacity: expected rows, a share like 10% or bytes like 64MiB, got {text!r}"
    rows, size = 0, None
    try:
        if text.endswith("%"):
            rows = int(distinct * float(text[:-1]) / 100)
        elif unit := next((unit for unit in _UNITS if text.endswith(unit)), None):
            size = int(float(text.removesuffix(unit)) * _UNITS[unit])
        else:
            rows = int(text)
    except (ValueError, OverflowError) as error:
        raise PepnetError(expected) from error
    if size is not None:
        if not 0 < size < 1 << 63:
            raise PepnetError(expected)
        try:
            rows = _kernels.RowCache(dim, size).capacity_rows
        except (ValueError, MemoryError) as error:  # too few bytes for one set, or more than there are
            raise PepnetError(f"--capacity: {text}: {str(error) or 'there is not so much memory'}") from error
    if rows < 1:
        raise PepnetError(f"--capacity: expected one row at least, got {text!r} of {distinct} distinct ids")
    return rows


def _cache(
    policy: Policy, rows: int, full: bool, scoring: Scoring, interval: float
) -> _kernels.RowCache | _kernels.studies.ExactCache:
    if full:
        return _kernels.studies.ExactCache(rows, policy, beta=scoring.beta, r=scoring.r, interval=interval)
    # One number a row: what a policy decides does not depend on how wide rows are. 512 bytes hold any row's share.
    return _kernels.RowCache(
        1, (rows + 4096) * 512, policy, max_rows=rows, beta=scoring.beta, r=scoring.r, interval=interval
    )


def capacity_of(rows: int, full: bool) -> int:
    """Returns how many rows a cache that is asked for `rows` has: sets come whole."""
    return _cache("lru", rows, full, Scoring(), 1.0).capacity_rows


def replay(trace: Trace, policy: Policy, rows: int, full: bool, scoring: Scoring) -> tuple[int, int]:
    """Replays `trace` through a cache of `policy` with about `rows` rows: a miss inserts. Returns hits and its rows.

    gset sees labels where the trace has them, each once its step of label_delay is over; rows without any score by
    their accesses.
    """
    interval = scoring.interval_of(trace, rows)
    cache = _cache(policy, rows, full, scoring, interval)
    labels = trace.positive if policy == "gset" else None
    clock = trace.time if trace.time is not None else np.arange(len(trace.keys), dtype=np.float64)
    step = scoring.delay_of(trace) if labels is not None else interval if policy in SCORED else np.inf
    hits = 0
    for first, last in _steps(clock, step, interval):
        cache.set_time(float(clock[first]))
        hits += cache.replay(trace.keys[first:last])
        if labels is not None:
            cache.feedback(trace.keys[first:last], labels[first:last])
    return hits, cache.capacity_rows


def _steps(clock: npt.NDArray[np.float64], step: float, interval: float) -> Iterator[tuple[int, int]]:
    """Yields the runs of accesses within one step of time and one interval."""
    if np.isinf(step):
        yield 0, len(clock)
        return
    changes = (np.diff(np.floor(clock / step)) != 0) | (np.diff(np.floor(clock / interval)) != 0)
    yield from pairwise([0, *(np.flatnonzero(changes) + 1).tolist(), len(clock)])


def measure_policies(trace: Trace, plan: Plan, say: Say) -> Report:
    """Returns the hits of every policy, kind of ways and capacity, and of MIN, which is exact and inserts every miss.

    Where set-associative caches take part, all get the number of rows that those come to: sets are whole.
    """
    capacities: list[dict[str, Any]] = []
    accesses = len(trace.keys)
    for text in plan.capacities:
        rows = rows_of(text, trace.distinct, plan.dim)
        if "auto" in plan.ways:
            rows = capacity_of(rows, full=False)
        if rows in (done["rows"] for done in capacities):
            raise PepnetError(f"--capacity: expected different numbers of rows, got {rows} twice")
        begin = perf_counter()
        cases = [_case(MIN, "", _kernels.studies.belady(trace.keys, rows), accesses, perf_counter() - begin)]
        for policy in plan.policies:
            for ways in plan.ways:
                say(f"{trace.name}, {rows} rows; {policy}, {ways}")
                begin = perf_counter()
                hits, got = replay(trace, policy, rows, ways == "full", plan.scoring)
                if got != rows:
                    raise PepnetError(f"{policy}, {ways}: expected a cache of {rows} rows, got {got}")
                cases.append(_case(policy, ways, hits, accesses, perf_counter() - begin))
        _close_gap(cases, plan.ways)
        capacities.append({"capacity": text.strip(), "rows": rows, "cases": cases})
    data = {
        "trace": trace.name,
        "accesses": accesses,
        "distinct": trace.distinct,
        "timed": trace.time is not None,
        "labelled": trace.positive is not None,
        "scoring": asdict(plan.scoring),
        "ways": list(plan.ways),
        "capacities": capacities,
    }
    return _page(data, machine.facts())


def _case(policy: str, ways: str, hits: int, accesses: int, seconds: float) -> Row:
    rate = hits / accesses
    case = {"policy": policy, "ways": ways, "hits": hits, "hit_rate": rate, "hit_percent": 100 * rate}
    return case | {"ns_an_access": seconds * 1e9 / accesses}


def _close_gap(cases: list[Row], ways: Sequence[str]) -> None:
    """Adds the share of the gap between exact LRU (or the LRU there is) and MIN, and the distance from `full`."""
    by = {(case["policy"], case["ways"]): case for case in cases}
    best = by[MIN, ""]["hits"]
    base = by.get(("lru", "full" if "full" in ways else "auto"))
    for case in cases:
        gap = 0 if base is None else best - base["hits"]
        case["gap_closed"] = (case["hits"] - base["hits"]) / gap if base is not None and gap > 0 else None
        exact = by.get((case["policy"], "full")) if case["ways"] == "auto" else None
        case["points_from_full"] = None if exact is None else 100 * (case["hit_rate"] - exact["hit_rate"])


def _page(data: dict[str, Any], facts: dict[str, Any]) -> Report:
    scoring, unit = data["scoring"], "s" if data["timed"] else "accesses"
    interval = scoring["interval"] or ("86400" if data["timed"] else "as many as the cache has rows")
    labels = "the trace has no labels: gset scores by accesses and is lfu here"
    if data["labelled"]:
        labels = "gset counts the trace's labels, each after its step of time"
    tables = []
    for capacity in data["capacities"]:
        rows = sorted(capacity["cases"], key=lambda case: (case["policy"] != MIN, -case["hits"]))
        tables.append(Table(f"{capacity['rows']:,} rows ({capacity['capacity']})", rows, _COLUMNS))
    return Report(
        "cache-policies",
        f"Cache policies on {data['trace']}",
        f"{data['trace']}: {data['accesses']:,} accesses of {data['distinct']:,} ids, "
        f"{1 - data['distinct'] / data['accesses']:.2%} of them to an id seen before. {machine.machine_line(facts)}.",
        data,
        facts,
        tables,
        [machine.machine_table(facts)],
        (
            f"Scores lose {scoring['beta']:.0%} an interval ({interval} {unit}); {labels}.",
            METHOD,
        ),
        lambda: _picture(data),
    )


def _picture(data: dict[str, Any]) -> bytes:
    """Returns a PNG: hit rate by capacity, a curve for each policy and one for MIN."""
    from pepnet_infer.bench.harness.pictures import Chart, Line, draw_lines

    capacities = sorted(data["capacities"], key=lambda capacity: int(capacity["rows"]))
    rows = [float(capacity["rows"]) for capacity in capacities]
    lines = []
    for at, case in enumerate(capacities[0]["cases"]):
        policy, ways = case["policy"], case["ways"]
        label = policy if ways == "" or len(data["ways"]) == 1 else f"{policy}, {ways}"
        hits = [capacity["cases"][at]["hit_percent"] for capacity in capacities]
        lines.append(Line(label, rows, hits, policy, dashed=ways == "auto"))
    ticks = [(float(c["rows"]), f"{c['rows']:,}\n{c['capacity']}") for c in capacities]
    chart = Chart("Hit rate", "rows of the cache", "%", lines, ticks, log=True)
    subtitle = f"{data['accesses']:,} accesses of {data['distinct']:,} ids. Dashed: set-associative, as it serves."
    return draw_lines(f"Cache policies on {data['trace']}", subtitle, [chart])
