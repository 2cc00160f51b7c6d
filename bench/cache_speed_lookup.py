"""Lookups of one table size: every contender on the same fresh ids, interleaved call by call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pepnet_infer.bench.cache_peers import (
    Contender,
    Destination,
    Gather,
    PeerLibrary,
    Workload,
    arrays,
    ours,
    python_caches,
)
from pepnet_infer.bench.cache_peers.contender import (
    SAMPLES,
    Floats,
    Positions,
    contiguous,
    input_columns,
    make_batches,
    make_keys_of,
)
from pepnet_infer.bench.cache_peers.native import PACKAGES, Dense, cache_contender
from pepnet_infer.bench.cache_speed_floor import sweep
from pepnet_infer.bench.latency import Plan, interleave
from pepnet_infer.bench.machine import BusyMeter
from pepnet_infer.bench.summary import describe_times, speedups
from pepnet_infer.errors import PepnetError

POLICIES = ("lru", "gset")
#: Ids that go round before a batch comes again: more than the last-level cache could keep the rows of.
BATCHES = 64
#: Rows of the largest table whose rows are kept as Python objects: some 500 bytes each.
PYTHON_ROWS = 1_000_000


@dataclass
class Stage:
    """A table in memory, the caches filled from it, and batches of ids that all of them hold."""

    mb: int
    dense: Dense
    caches: dict[str, ours.Filled]
    workload: Workload
    python: bool

    @property
    def dim(self) -> int:
        """Numbers a row."""
        return int(self.workload.table.shape[1])

    @property
    def rows(self) -> int:
        """Ids a batch."""
        return self.workload.batches[0].rows


@contextmanager
def prepared(
    library: PeerLibrary, mb: int, dim: int, rows: int, seed: int, say: Callable[[str], None]
) -> Iterator[Stage]:
    """Makes a table of `mb` MiB and fills a cache of each policy from it."""
    rng = np.random.default_rng(seed)
    count = (mb << 20) // (dim * 4)
    say(f"making a table of {mb} MiB")
    dense = Dense(library, count, dim)
    try:
        rng.random(out=dense.table, dtype=np.float32)
        everything = Workload(dense.table, make_keys_of(count, rng), ())
        caches = {}
        for policy in POLICIES:
            say(f"filling the cache, {mb} MiB, {policy}")
            caches[policy] = ours.fill(everything, policy, seed)
        resident = _in_all([filled.resident for filled in caches.values()])
        python = count <= PYTHON_ROWS and len(python_caches.missing()) < len(python_caches.NAMES)
        batches = make_batches(everything.keys, resident, rows, BATCHES, rng, python=python)
        yield Stage(mb, dense, caches, Workload(dense.table, everything.keys, batches), python)
    finally:
        dense.close()


def compare_lookups(
    library: PeerLibrary, stage: Stage, plan: Plan, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Returns what each contender took, ratios between all of them, and what was left out and why."""
    best, ways = sweep(stage.dense, stage.workload.batches, library.widths, say)
    left_out = {name: f"headers missing: {PACKAGES[name]}" for name in PACKAGES if name not in library.peers}
    left_out |= python_caches.missing()
    if not stage.python:
        left_out |= {
            name: f"more than {PYTHON_ROWS} rows as Python objects"
            for name in python_caches.NAMES
            if name not in left_out
        }
    with ExitStack() as stack:
        contenders = {}
        for make in _makers(library, stage, best):
            contender = make()
            stack.callback(contender.close)
            contenders[contender.name] = contender
            say(f"made {contender.name}, {stage.mb} MiB")
        meter = BusyMeter()
        millis, unsettled = _timed(contenders, stage.workload, plan, say)
        busy = meter.others()
    ratios = speedups(millis)
    return {
        "table_mb": stage.mb,
        "table_rows": int(stage.workload.table.shape[0]),
        "rows": stage.rows,
        "dim": stage.dim,
        "caches": [filled.describe() for filled in stage.caches.values()],
        "floor": {"ahead": best.ahead, "width": best.width, "sweep": ways},
        "contenders": [
            {
                "name": name,
                "what": contenders[name].what,
                **describe_times(times),
                "ns_a_row": float(np.median(times)) * 1e6 / stage.rows,
                "unsettled": unsettled[name],
                "faster_than": ratios[name],
            }
            for name, times in millis.items()
        ],
        "left_out": left_out,
        "others_busy": busy,
    }


def _makers(library: PeerLibrary, stage: Stage, best: Gather) -> list[Callable[[], Contender]]:
    """What makes each contender, in the order of the report."""
    workload, rows, dim = stage.workload, stage.rows, stage.dim

    def whole() -> Destination:
        return contiguous(rows, dim)

    makers: list[Callable[[], Contender]] = [lambda: stage.dense.contender("floor", best, whole())]
    for policy, filled in stage.caches.items():
        makers += [
            partial(ours.public_contender, filled, whole(), f"cache-{policy}"),
            partial(ours.core_contender, filled, whole(), f"core-{policy}"),
        ]
    makers += [
        partial(ours.core_contender, stage.caches["lru"], whole(), "core-uncounted", counted=False),
        partial(arrays.index_contender, workload),
        partial(arrays.take_contender, workload, whole()),
        partial(arrays.gather_contender, workload, whole()),
        *(partial(cache_contender, library, name, workload, whole()) for name in library.peers),
    ]
    if rows % SAMPLES == 0:
        makers.append(lambda: stage.dense.contender("floor-columns", best, input_columns(rows, dim)))
        makers += [
            partial(ours.public_contender, filled, input_columns(rows, dim), f"cache-{policy}-columns")
            for policy, filled in stage.caches.items()
        ]
    if stage.python:
        python = {"cachetools": python_caches.cachetools_contender, "theine": python_caches.theine_contender}
        makers += [
            partial(make, workload, whole()) for name, make in python.items() if name not in python_caches.missing()
        ]
    return makers


def _timed(
    contenders: Mapping[str, Contender], workload: Workload, plan: Plan, say: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, int]]:
    """Milliseconds of every contender, all outputs checked, and turns that began while something else ran."""

    def check(name: str, index: int, parts: Sequence[Floats]) -> None:
        if not np.array_equal(np.concatenate(parts), workload.expected(workload.batches[index])):
            raise PepnetError("expected the table's rows, got others")

    calls = {name: contender.call for name, contender in contenders.items()}
    measured = interleave(
        calls,
        workload.batches,
        plan,
        check=check,
        on_round=lambda number: say(f"measuring lookups, {len(workload.keys):,} rows; round {number + 1}"),
    )
    if measured.failed:
        name, why = next(iter(measured.failed.items()))
        raise PepnetError(f"{name}: {why}")
    timings = measured.timings
    return {name: t.millis for name, t in timings.items()}, {name: t.unsettled for name, t in timings.items()}


def _in_all(residents: Sequence[Positions]) -> Positions:
    common = residents[0]
    for other in residents[1:]:
        common = np.intersect1d(common, other, assume_unique=True)
    return common
