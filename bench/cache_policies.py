"""Policies against each other and against MIN on one trace: `pepnet-infer bench cache --trace`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pepnet_infer import _kernels
from pepnet_infer.bench import machine
from pepnet_infer.bench.cache_replay import Policy, Replayed, Scoring, capacity_of, most_hits, replay
from pepnet_infer.bench.cache_trace import Trace
from pepnet_infer.bench.report import Result
from pepnet_infer.errors import PepnetError

MIN = "min"
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "B": 1}


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
    rows = 0
    size: int | None = None
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


def measure_policies(trace: Trace, plan: Plan, command: str, say: Callable[[str], None]) -> Result:
    """Returns the result of kind "cache-policies": hits of every policy, kind of ways and capacity, and of MIN.

    Where set-associative caches take part, all get the number of rows that those come to: sets are whole.
    """
    capacities: list[dict[str, Any]] = []
    for text in plan.capacities:
        rows = rows_of(text, trace.distinct, plan.dim)
        if "auto" in plan.ways:
            rows = capacity_of(rows, full=False)
        if rows in (done["rows"] for done in capacities):
            raise PepnetError(f"--capacity: expected different numbers of rows, got {rows} twice")
        say(f"{trace.name}, {rows} rows; MIN")
        best = most_hits(trace, rows)
        cases = [_case(MIN, "", best, len(trace.keys))]
        for policy in plan.policies:
            for ways in plan.ways:
                say(f"{trace.name}, {rows} rows; {policy}, {ways}")
                got = replay(trace, policy, rows, ways == "full", plan.scoring)
                if got.rows != rows:
                    raise PepnetError(f"{policy}, {ways}: expected a cache of {rows} rows, got {got.rows}")
                cases.append(_case(policy, ways, got, len(trace.keys)))
        _close_gap(cases, plan.ways)
        capacities.append({"capacity": text.strip(), "rows": rows, "cases": cases})
    data = {
        "trace": trace.name,
        "accesses": len(trace.keys),
        "distinct": trace.distinct,
        "timed": trace.time is not None,
        "labelled": trace.positive is not None,
        "scoring": asdict(plan.scoring),
        "ways": list(plan.ways),
        "capacities": capacities,
    }
    return Result("cache-policies", command, machine.facts(), data)


def _case(policy: str, ways: str, got: Replayed, accesses: int) -> dict[str, Any]:
    return {
        "policy": policy,
        "ways": ways,
        "hits": got.hits,
        "hit_rate": got.hits / accesses,
        "ns_an_access": got.seconds * 1e9 / accesses,
        "gap_closed": None,
        "points_from_full": None,
    }


def _close_gap(cases: list[dict[str, Any]], ways: Sequence[str]) -> None:
    """Adds the share of the gap between exact LRU (or the LRU there is) and MIN, and the distance from `full`."""
    by = {(case["policy"], case["ways"]): case for case in cases}
    best = by[MIN, ""]["hits"]
    base = by.get(("lru", "full" if "full" in ways else "auto"))
    for case in cases:
        if base is not None and best > base["hits"]:
            case["gap_closed"] = (case["hits"] - base["hits"]) / (best - base["hits"])
        exact = by.get((case["policy"], "full"))
        if case["ways"] == "auto" and exact is not None:
            case["points_from_full"] = 100 * (case["hit_rate"] - exact["hit_rate"])
