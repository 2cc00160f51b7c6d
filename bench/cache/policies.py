"""Policies against each other and against Belady's MIN on one trace: `bench cache --trace`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pepnet_infer import _kernels
from pepnet_infer.bench.harness.measure import Row, Say
from pepnet_infer.bench.harness.report import Report, Table
from pepnet_infer.errors import PepnetError, SchemaError
from pepnet_infer.rows.cache.config import Policy
from pepnet_infer.rows.gset import Gset
from pepnet_infer.schema.ids import Keys

GSET = Gset()  # the recurrence as bundles and caches have it
MIN = "MIN"
#: The forms of a policy: fully associative, as its paper has it, and in sets of a few rows, as it serves.
EXACT, SERVES = "exact", "as it serves"
#: Policies whose rows are ordered by a score that decays.
_SCORED = frozenset({"gset", "lfu"})
_COLUMNS = {
    "policy": "{policy}",
    "form": "{form}",
    "hit rate %": "{hit_percent:.2f}",
    "LRU→MIN closed": "{gap_closed:.1%}",
    "points from exact": "{points_from_exact:+.2f}",
    "ns an access": "{ns_an_access:.0f}",
}
#: Column of a trace → what it holds, which Arrow types that is, and the type it is read as.
_TRACE_COLUMNS: dict[str, tuple[str, Callable[[pa.DataType], bool], type]] = {
    "key": ("integers", pa.types.is_integer, np.uint64),
    "time": ("seconds", lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind), np.float64),
    "positive": ("bool", pa.types.is_boolean, np.bool_),
}


@dataclass(frozen=True)
class Trace:
    """N accesses in order.

    keys uint64 [N]; time float64 [N], seconds that never go back, or None; positive bool [N], whether the sample that
    the access belongs to was a positive one, or None.
    """

    name: str
    keys: Keys
    time: npt.NDArray[np.float64] | None = None
    positive: npt.NDArray[np.bool_] | None = None


def read_trace(path: Path) -> Trace:
    """Reads a parquet file with an integer column `key` and, if it has them, `time` and `positive`.

    Raises SchemaError naming the column for a file that is none, a missing key, nulls, NaN, or a time that goes back.
    """
    try:
        with open(path, "rb") as file:  # of a path Arrow reads columns from folders' names too
            table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise SchemaError(f"expected a parquet file, got {error}", file=path) from error
    if "key" not in table.column_names:
        got = ", ".join(table.column_names) or "no columns"
        raise SchemaError(expected="a column 'key'", got=got, file=path)
    if table.num_rows == 0:
        raise SchemaError(expected="accesses", got="none", file=path)
    columns: dict[str, npt.NDArray[Any]] = {}
    for name, (holds, is_kind, kind) in _TRACE_COLUMNS.items():
        if name in table.column_names:
            values = table[name]
            if not is_kind(values.type):
                raise SchemaError(expected=holds, got=str(values.type), file=path, column=name)
            if values.null_count:
                raise SchemaError(expected="no nulls", got=str(values.null_count), file=path, column=name)
            columns[name] = np.ascontiguousarray(values.to_numpy().astype(kind))
    if (time := columns.get("time")) is not None:
        if not np.isfinite(time).all():
            raise SchemaError(expected="finite seconds", got="NaN or infinity", file=path, column="time")
        if (back := np.flatnonzero(np.diff(time) < 0)).size:
            expected = "seconds that never go back"
            raise SchemaError(expected=expected, got="less", file=path, column="time", row=int(back[0]) + 1)
    return Trace(path.name, columns["key"], time, columns.get("positive"))


def rows_of(capacity: str, distinct: int) -> int:
    """Returns the rows of a capacity: "5000", or "10%" of the distinct ids. Raises PepnetError for anything else."""
    try:
        rows = round(distinct * float(capacity[:-1]) / 100) if capacity.endswith("%") else int(capacity)
    except (ValueError, OverflowError) as error:
        raise PepnetError(f"--capacity: expected rows, or a share like 10%, got {capacity!r}") from error
    if rows < 1:
        raise PepnetError(f"--capacity: expected one row at least, got {capacity!r} of {distinct} distinct ids")
    return rows


def replay(trace: Trace, policy: str, rows: int, form: str, label_delay: float | None = None) -> int:
    """Replays `trace` through a cache of `rows` rows, where a miss inserts its row, or through MIN. Returns the hits.

    Scores decay every day, or without times every `rows` accesses. gset counts the labels that the trace has, each
    once its step of `label_delay` is over (seconds, 60 by default; without times accesses, 1000): rows without any
    score by their accesses. Raises PepnetError when the cache has another number of rows.
    """
    if policy == MIN:
        return _kernels.studies.belady(trace.keys, rows)
    timed = trace.time is not None
    interval = GSET.interval if timed else float(rows)
    cache = _cache(policy, rows, form, interval)
    if cache.capacity_rows != rows:
        raise PepnetError(f"{policy}, {form}: expected a cache of {rows} rows, got {cache.capacity_rows}")
    labels = trace.positive if policy == "gset" else None
    clock = np.arange(len(trace.keys), dtype=np.float64) if trace.time is None else trace.time
    periods = [interval] if policy in _SCORED else []
    if labels is not None:
        periods.append(label_delay or (60.0 if timed else 1000.0))
    hits = 0
    for first, last in _steps(clock, periods):
        cache.set_time(float(clock[first]))
        hits += cache.replay(trace.keys[first:last])
        if labels is not None:
            cache.feedback(trace.keys[first:last], labels[first:last])
    return hits


def _cache(policy: str, rows: int, form: str, interval: float = 1.0) -> _kernels.RowCache | _kernels.studies.ExactCache:
    if form == EXACT:
        return _kernels.studies.ExactCache(rows, policy, interval=interval)
    # One number a row: what a policy decides does not depend on how wide rows are. 512 bytes hold any row's share.
    return _kernels.RowCache(1, (rows + 4096) * 512, policy, max_rows=rows, interval=interval)


def _steps(clock: npt.NDArray[np.float64], periods: Sequence[float]) -> Iterator[tuple[int, int]]:
    """Yields the runs of accesses within one of each of the periods."""
    changes = np.zeros(len(clock) - 1, np.bool_)
    for period in periods:
        changes |= np.diff(np.floor(clock / period)) != 0
    yield from pairwise([0, *(np.flatnonzero(changes) + 1).tolist(), len(clock)])


def measure_policies(
    trace: Trace, capacities: Sequence[str], policies: Sequence[Policy], label_delay: float | None, say: Say
) -> Report:
    """Returns the hits of MIN, which is exact and inserts every miss, and of every policy and form by capacity.

    All get the number of rows that a set-associative cache comes to, because sets are whole.
    """
    accesses, distinct = len(trace.keys), len(np.unique(trace.keys))
    sizes: list[Row] = []
    for text in capacities:
        rows = _cache("lru", rows_of(text, distinct), SERVES).capacity_rows
        if rows in (size["rows"] for size in sizes):
            raise PepnetError(f"--capacity: expected different numbers of rows, got {rows} twice")
        cases = []
        for policy, form in [(MIN, ""), *product(policies, (EXACT, SERVES))]:
            say(f"{trace.name}, {rows} rows: {policy}, {form}".removesuffix(", "))
            begin = perf_counter()
            hits = replay(trace, policy, rows, form, label_delay)
            took = (perf_counter() - begin) * 1e9 / accesses
            known = {"policy": policy, "form": form, "ns_an_access": took}
            cases.append({**known, "hits": hits, "hit_percent": 100 * hits / accesses})
        _compare(cases)
        sizes.append({"capacity": text, "rows": rows, "cases": cases})
    labels = "the trace has no labels: gset scores by accesses and is lfu here"
    if trace.positive is not None:
        labels = "gset counts the trace's labels, each after its step of time"
    interval = "a day" if trace.time is not None else "as many accesses as the cache has rows"
    return Report(
        "cache-policies",
        f"Cache policies on {trace.name}",
        f"{trace.name}: {accesses:,} accesses of {distinct:,} ids, {1 - distinct / accesses:.2%} of them to an id seen "
        "before.",
        {"trace": trace.name, "accesses": accesses, "distinct": distinct, "capacities": sizes},
        [
            Table(
                f"{size['rows']:,} rows ({size['capacity']})",
                sorted(size["cases"], key=lambda case: (case["policy"] != MIN, -case["hits"])),
                _COLUMNS,
            )
            for size in sizes
        ],
        notes=[f"Scores lose {GSET.beta:.0%} an interval, which is {interval}; {labels}."],
        picture=lambda: _picture(trace.name, f"{accesses:,} accesses of {distinct:,} ids", sizes),
    )


def _compare(cases: list[Row]) -> None:
    """Adds the share of the gap between exact LRU and MIN, and how far a policy that serves is from its exact form."""
    by = {(case["policy"], case["form"]): case for case in cases}
    best = by[MIN, ""]["hits"]
    base = by.get(("lru", EXACT), by[MIN, ""])["hits"]
    for case in cases:
        case["gap_closed"] = (case["hits"] - base) / (best - base) if best > base else None
        exact = by[case["policy"], EXACT] if case["form"] == SERVES else None
        case["points_from_exact"] = None if exact is None else case["hit_percent"] - exact["hit_percent"]


def _picture(name: str, accesses: str, sizes: list[dict[str, Any]]) -> bytes:
    """Returns a PNG: hit rate by capacity, a curve for each policy and form and one for MIN."""
    from pepnet_infer.bench.harness.pictures import Chart, Line, draw_lines

    sizes = sorted(sizes, key=lambda size: int(size["rows"]))
    lines = [
        Line(
            f"{case['policy']}, {case['form']}".removesuffix(", "),
            [float(size["rows"]) for size in sizes],
            [size["cases"][at]["hit_percent"] for size in sizes],
            case["policy"],
            dashed=case["form"] == SERVES,
        )
        for at, case in enumerate(sizes[0]["cases"])
    ]
    ticks = [(float(size["rows"]), f"{size['rows']:,}\n{size['capacity']}") for size in sizes]
    chart = Chart("Hit rate", "rows of the cache", "%", lines, ticks)
    return draw_lines(f"Cache policies on {name}", f"{accesses}. Dashed: set-associative, as it serves.", [chart])
