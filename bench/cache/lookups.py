"""Lookups of one table size: every contender on the same fresh ids, interleaved call by call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np

from pepnet_infer.bench.cache import peers
from pepnet_infer.bench.cache.contender import (
    SAMPLES,
    Contender,
    Destination,
    Floats,
    Workload,
    contiguous,
    input_columns,
    make_batches,
    make_keys_of,
)
from pepnet_infer.bench.cache.native_peers import PACKAGES, Dense, Gather, PeerLibrary, cache_contender
from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.harness.measure import Row, Say, measure
from pepnet_infer.errors import PepnetError

POLICIES = ("lru", "gset")
#: Ids that go round before a batch comes again: more than the last-level cache could keep the rows of.
BATCHES = 64
#: Rows of the largest table whose rows are kept as Python objects: some 500 bytes each.
PYTHON_ROWS = 1_000_000
#: Rows ahead of the ways to gather that the floor is looked for among, and timed calls of each way.
AHEAD = (4, 8, 12, 16, 24, 32, 48, 64)
SWEEP_RUNS = 20


@dataclass
class Stage:
    """A table in memory, the caches filled from it, and batches of ids that all of them hold."""

    mb: int
    dense: Dense
    caches: dict[str, peers.Filled]
    workload: Workload
    python: bool  # whether batches have their keys as Python integers too

    @property
    def dim(self) -> int:
        """Numbers a row."""
        return int(self.workload.table.shape[1])

    @property
    def rows(self) -> int:
        """Ids a batch."""
        return self.workload.batches[0].rows


@contextmanager
def prepared(library: PeerLibrary, mb: int, dim: int, rows: int, seed: int, say: Say) -> Iterator[Stage]:
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
            caches[policy] = peers.fill(everything, policy, seed)
        resident = reduce(np.intersect1d, [filled.resident for filled in caches.values()])
        python = count <= PYTHON_ROWS and len(peers.missing()) < len(peers.PACKAGES)
        batches = make_batches(everything.keys, resident, rows, BATCHES, rng, python=python)
        yield Stage(mb, dense, caches, Workload(dense.table, everything.keys, batches), python)
    finally:
        dense.close()


def sweep(stage: Stage, widths: Sequence[int], plan: Plan, say: Say) -> tuple[Gather, list[Row]]:
    """Returns the fastest way to gather known positions, the floor, and what every way took, ns a row.

    All ways take turns as the contenders do, with hardly any warm-up: a way's figure is that of its fastest tenth.
    """
    destination = contiguous(stage.rows, stage.dim)
    ways = {f"{ahead}/{width}": Gather(ahead, width) for width in widths for ahead in AHEAD}
    calls = {name: stage.dense.contender(name, way, destination).call for name, way in ways.items()}
    short = Plan(SWEEP_RUNS, warm_s=0.0, settle_s=plan.settle_s)
    rows = measure("looking for the fastest gather", calls, stage.workload.batches, short, say).rows
    table = [
        {"ahead": way.ahead, "width": way.width, "ns_a_row": rows[name]["quantiles_ms"]["10"] * 1e6 / stage.rows}
        for name, way in ways.items()
    ]
    best = min(table, key=lambda row: float(row["ns_a_row"]))
    return Gather(best["ahead"], best["width"]), table


def compare_lookups(library: PeerLibrary, stage: Stage, plan: Plan, say: Say = lambda _: None) -> dict[str, Any]:
    """Returns what each contender took, ratios between all of them, and what was left out and why."""
    best, ways = sweep(stage, library.widths, plan, say)
    left_out = {name: f"headers missing: {PACKAGES[name]}" for name in PACKAGES if name not in library.peers}
    left_out |= peers.missing()
    if not stage.python:
        left_out = dict.fromkeys(peers.PACKAGES, f"more than {PYTHON_ROWS} rows as Python objects") | left_out

    def check(name: str, index: int, parts: Sequence[Floats]) -> None:
        if not np.array_equal(np.concatenate(parts), stage.workload.expected(stage.workload.batches[index])):
            raise PepnetError("expected the table's rows, got others")

    with ExitStack() as stack:
        contenders: dict[str, Contender] = {}
        for make in _makers(library, stage, best, left_out):
            contender = make()
            stack.callback(contender.close)
            contenders[contender.name] = contender
            say(f"made {contender.name}, {stage.mb} MiB")
        calls = {name: contender.call for name, contender in contenders.items()}
        about = {name: {"what": contender.what} for name, contender in contenders.items()}
        what = f"lookups, {len(stage.workload.keys):,} rows"
        figures = measure(what, calls, stage.workload.batches, plan, say, about=about, check=check)
    floor, ours = figures.rows["floor"], figures.rows["cache-lru"]
    for row in figures.rows.values():
        row |= {"ns_a_row": row["p50_ms"] * 1e6 / stage.rows}
        row |= {"tenth_ns_a_row": row["quantiles_ms"]["10"] * 1e6 / stage.rows}
        row |= {"over_floor": row["p50_ms"] / floor["p50_ms"], "over_ours": row["p50_ms"] / ours["p50_ms"]}
    return {
        "table_mb": stage.mb,
        "table_rows": int(stage.workload.table.shape[0]),
        "rows": stage.rows,
        "dim": stage.dim,
        "caches": [filled.describe() for filled in stage.caches.values()],
        "floor": {"ahead": best.ahead, "width": best.width, "sweep": ways},
        "contenders": list(figures.rows.values()),
        "left_out": left_out,
        "others_busy": figures.others_busy,
    }


def _makers(
    library: PeerLibrary, stage: Stage, best: Gather, left_out: dict[str, str]
) -> list[Callable[[], Contender]]:
    """What makes each contender, in the order of the report."""
    workload, rows, dim = stage.workload, stage.rows, stage.dim

    def whole() -> Destination:
        return contiguous(rows, dim)

    makers: list[Callable[[], Contender]] = [lambda: stage.dense.contender("floor", best, whole())]
    for policy, filled in stage.caches.items():
        makers.append(partial(peers.our_contender, filled, whole(), f"cache-{policy}"))
    makers.append(partial(peers.index_contender, workload))
    makers += [partial(cache_contender, library, name, workload, whole()) for name in library.peers]
    if rows % SAMPLES == 0:
        makers.append(lambda: stage.dense.contender("floor-columns", best, input_columns(rows, dim)))
        for policy, filled in stage.caches.items():
            name = f"cache-{policy}-columns"
            makers.append(partial(peers.our_contender, filled, input_columns(rows, dim), name))
    makers += [partial(make, workload, whole()) for name, make in peers.PACKAGES.items() if name not in left_out]
    return makers
