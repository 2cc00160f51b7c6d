"""`bench cache-speed`: the cache's lookups beside their peers, its updates, its readers, and what misses cost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs

from pepnet_infer.bench.cache.misses import measure_misses
from pepnet_infer.bench.cache.peers import Batch, Call, PeerLibrary, fill, random_keys, random_table
from pepnet_infer.bench.cache.readers import SLICE_S, measure_readers, measure_seen
from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.harness.machine import BusyMeter, available_bytes, noise
from pepnet_infer.bench.harness.measure import Row, Say, measure
from pepnet_infer.bench.harness.report import TIMES, Report, Table
from pepnet_infer.errors import PepnetError
from pepnet_infer.rows.cache.config import Policy

POLICIES: tuple[Policy, ...] = ("lru", "gset")
#: Rows ahead that the floor asks for: the fastest of them is the floor.
AHEAD = (8, 16, 32)
#: Ids that go round before a batch comes again: more than the last-level cache could keep the rows of.
BATCHES = 64
UPDATE_ROWS = 1024
#: Rows of the largest table that is put into a store in memory too.
MISS_ROWS = 1_000_000
#: Bytes of memory needed for one byte of table: the table, its caches and the peer in C++, and slack.
_MEMORY_A_TABLE = 8
_LOOKUPS = {
    "who": "{name}",
    **TIMES,
    "ns a row": "{ns_a_row:.1f}",
    "over floor": "{over_floor:ratio}",
    "over cache-lru": "{over_ours:ratio}",
    "runs": "{runs:d}",
}
_READERS = {
    "policy": "{policy}",
    "threads": "{name}",
    "M rows/s": "{million_rows_per_s:.1f}",
    "over 1 reader": "{speedups[1 reader]:ratio}",
    "p50 ms": "{call_ms[p50_ms]:ms}",
    "p99 ms": "{call_ms[p99_ms]:ms}",
    "p99 over 1 reader": "{p99_over:ratio}",
    "updates/s": "{updates_per_s:,.0f}",
}
_MISSES = {"batches": "{name}", **TIMES, "over all hits": "{over:ratio}", "runs": "{runs:d}"}


def measure_cache_speed(
    peers: Path, tables_mb: Sequence[int], rows: int, dim: int, plan: Plan, seed: int, say: Say = lambda _: None
) -> Report:
    """Measures everything `bench cache-speed` reports. peers: the library of those in C++.

    Calls look up `rows` ids in tables of rows of `dim` numbers. Raises PepnetError for a wrong library or too little
    memory.
    """
    library, meter = PeerLibrary(peers), BusyMeter()
    largest, there = max(tables_mb), available_bytes() >> 20
    if there < (wanted := _MEMORY_A_TABLE * largest):
        raise PepnetError(f"a table of {largest} MiB: expected {wanted} MiB of available memory, got {there}")
    data = [_measure_table(library, mb, rows, dim, plan, seed, say) for mb in tables_mb]
    return Report(
        "cache-speed",
        "The embedding cache's speed",
        f"{rows} rows of {dim} float32 a call, uniform ids, all hits; {noise(meter.others())}.",
        {"rows": rows, "dim": dim, "seed": seed, "plan": structs.asdict(plan), "tables": data},
        [
            table
            for one in data
            for table in (
                Table(f"Lookups and updates, a table of {one['table_mb']} MiB", one["lookups"], _LOOKUPS),
                Table(f"Readers, {one['table_mb']} MiB", one["readers"], _READERS),
                Table(f"Misses, {one['table_mb']} MiB", one["misses"], _MISSES),
            )
            if table.rows
        ],
        notes=[
            f"At least {plan.runs} timed calls of each and {plan.seconds:g} s a table, after {plan.warm_s * 1e3:g} ms "
            f"of untimed ones. An update is a call that writes newer versions of {UPDATE_ROWS} rows in the cache, and "
            f"seen when another thread finds its last row. Readers: all calls in turns of {SLICE_S:g} s."
        ],
    )


def _measure_table(
    library: PeerLibrary, mb: int, rows: int, dim: int, plan: Plan, seed: int, say: Say
) -> dict[str, Any]:
    """Returns the rows of the tables about one size of table; of the look-ups the fastest of the floors first."""
    rng, count = np.random.default_rng(seed), (mb << 20) // (dim * 4)
    say(f"making a table of {mb} MiB and its caches")
    table, keys = random_table(count, dim, rng), random_keys(count, rng)
    with library.list_lru(keys, table, rows) as list_lru:
        filled = {policy: fill(keys, table, policy, seed) for policy in POLICIES}
        resident = reduce(np.intersect1d, [one.resident for one in filled.values()])
        drawn = [resident[rng.integers(0, resident.size, rows)] for _ in range(BATCHES)]
        batches = [Batch(positions, keys[positions]) for positions in drawn]
        calls: dict[str, Call] = {f"floor, {ahead} ahead": library.floor(table, rows, ahead) for ahead in AHEAD}
        calls |= {f"cache-{policy}": one.reader(rows) for policy, one in filled.items()}
        calls |= {"numpy table[idx]": lambda batch: np.asarray(table[batch.positions]), "list-lru": list_lru}
        by_name = measure(
            f"lookups, {count:,} rows", calls, batches, plan, say, check=lambda _, i, out: batches[i].check(out, table)
        ).rows
        floor = min((by_name[f"floor, {ahead} ahead"] for ahead in AHEAD), key=lambda row: float(row["p50_ms"]))
        for name, row in by_name.items():
            row["ns_a_row"] = row["p50_ms"] * 1e6 / rows
            row["over_floor"] = floor["speedups"].get(name)
            row["over_ours"] = by_name[f"cache-{POLICIES[0]}"]["speedups"].get(name)
        lookups = sorted(by_name.values(), key=lambda row: row is not floor)
        size = min(UPDATE_ROWS, resident.size)
        updates = {f"update-{policy}": one.updates(keys, table, size) for policy, one in filled.items()}
        for row in measure("updates", updates, [None], plan, say).rows.values():
            lookups.append(row | {"ns_a_row": row["p50_ms"] * 1e6 / size})
        readers = [
            row | {"policy": policy}
            for (policy, one), update in zip(filled.items(), updates.values(), strict=True)
            for row in measure_readers(one, batches, update, size, plan, say)
        ]
        lookups += measure_seen(filled, keys, size, plan, say)
        misses: list[Row] = []
        if count <= MISS_ROWS:
            found = measure_misses(keys, table, rows, plan, seed, say).rows
            misses = [row | {"over": found["all hits"]["speedups"].get(name)} for name, row in found.items()]
    return {"table_mb": mb, "table_rows": count, "lookups": lookups, "readers": readers, "misses": misses}
