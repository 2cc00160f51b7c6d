"""`bench cache-speed`: the cache's lookups beside their peers, its updates, its readers, and what misses cost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs

from pepnet_infer.bench.cache.misses import measure_misses
from pepnet_infer.bench.cache.peers import Batch, Call, Floats, PeerLibrary, fill, random_keys, random_table
from pepnet_infer.bench.cache.readers import SLICE_S, measure_readers, measure_seen
from pepnet_infer.bench.harness.busy import BusyMeter, noise
from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.harness.machine import available_bytes
from pepnet_infer.bench.harness.measure import Row, Say, measure
from pepnet_infer.bench.harness.report import Report, Table
from pepnet_infer.errors import PepnetError
from pepnet_infer.rows.cache.config import Policy
from pepnet_infer.validation import Options, Several

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
    "p50 ms": "{p50_ms:ms}",
    "p99 ms": "{p99_ms:ms}",
    "ns a row": "{ns_a_row:.1f}",
    "over floor": "{over_floor[ratio]:.2f}×",
    "95 %": "{over_floor[low]:.2f}–{over_floor[high]:.2f}",
    "over cache-lru": "{over_ours[ratio]:.2f}×",
    "metadata bytes a row": "{metadata_bytes_a_row:.2f}",
    "rows that stayed": "{resident_share:.2%}",
    "runs": "{runs:d}",
}
_READERS = {
    "policy": "{policy}",
    "threads": "{name}",
    "M rows/s": "{million_rows_per_s:.1f}",
    "over 1 reader": "{speedups[1 reader][ratio]:.2f}×",
    "95 %": "{speedups[1 reader][low]:.2f}–{speedups[1 reader][high]:.2f}",
    "p50 ms": "{call_ms[p50_ms]:ms}",
    "p99 ms": "{call_ms[p99_ms]:ms}",
    "p99 over 1 reader": "{p99_over[ratio]:.2f}×",
    "95 % of it": "{p99_over[low]:.2f}–{p99_over[high]:.2f}",
    "updates/s": "{updates_per_s:,.0f}",
}
_MISSES = {
    "batches": "{name}",
    "p50 ms": "{p50_ms:ms}",
    "p99 ms": "{p99_ms:ms}",
    "over all hits": "{over[ratio]:.2f}×",
    "95 %": "{over[low]:.2f}–{over[high]:.2f}",
    "runs": "{runs:d}",
}


class CacheSpeedOptions(Options, frozen=True):
    """What the command was asked for."""

    peers: Path
    tables_mb: Sequence[Several] = (64, 800)
    rows: Several = 20480
    dim: Several = 40
    plan: Plan = Plan()
    seed: int = 0


def measure_cache_speed(options: CacheSpeedOptions, say: Say = lambda _: None) -> Report:
    """Measures everything `bench cache-speed` reports. Raises PepnetError for a wrong library or too little memory."""
    library, meter = PeerLibrary(options.peers), BusyMeter()
    largest, there = max(options.tables_mb), available_bytes() >> 20
    if there < (wanted := _MEMORY_A_TABLE * largest):
        raise PepnetError(f"a table of {largest} MiB: expected {wanted} MiB of available memory, got {there}")
    data = [_measure_table(library, mb, options, say) for mb in options.tables_mb]
    plan, about = options.plan, "{} MiB, {:,} rows".format
    named = [(about(one["table_mb"], one["table_rows"]), one) for one in data]
    return Report(
        "cache-speed",
        "The embedding cache's speed",
        f"{options.rows} rows of {options.dim} float32 a call, uniform ids, all hits; {noise(meter.others())}.",
        {"options": structs.asdict(options) | {"peers": "", "plan": structs.asdict(plan)}, "tables": data},
        [
            table
            for name, one in named
            for table in (
                Table(f"Lookups and updates, a table of {name}", one["lookups"], _LOOKUPS),
                Table(f"Readers, {name}", one["readers"], _READERS),
                Table(f"Misses, {name}", one["misses"], _MISSES),
            )
            if table.rows
        ],
        notes=[
            f"At least {plan.runs} timed calls of each and {plan.seconds:g} s a table, after {plan.warm_s * 1e3:g} ms "
            f"of untimed ones. An update is a call that writes newer versions of {UPDATE_ROWS} rows in the cache, and "
            f"seen when another thread finds its last row. Readers: all calls in turns of {SLICE_S:g} s."
        ],
    )


def _measure_table(library: PeerLibrary, mb: int, options: CacheSpeedOptions, say: Say) -> dict[str, Any]:
    """Returns the rows of the tables about one size of table."""
    rng, rows, dim = np.random.default_rng(options.seed), options.rows, options.dim
    count = (mb << 20) // (dim * 4)
    say(f"making a table of {mb} MiB and its caches")
    table, keys = random_table(count, dim, rng), random_keys(count, rng)
    with library.list_lru(keys, table, rows) as list_lru:
        filled = {policy: fill(keys, table, policy, options.seed) for policy in POLICIES}
        resident = reduce(np.intersect1d, [one.resident for one in filled.values()])
        drawn = [resident[rng.integers(0, resident.size, rows)] for _ in range(BATCHES)]
        batches = [Batch(positions, keys[positions]) for positions in drawn]
        calls: dict[str, Call] = {f"floor, {ahead} ahead": library.floor(table, rows, ahead) for ahead in AHEAD}
        calls |= {f"cache-{policy}": one.reader(rows) for policy, one in filled.items()}
        calls["numpy table[idx]"] = lambda batch: np.asarray(table[batch.positions])
        calls["list-lru"] = list_lru
        about = {
            f"cache-{policy}": {
                "metadata_bytes_a_row": one.cache.memory_bytes / one.cache.capacity_rows - dim * 4,
                "resident_share": one.resident.size / count,
            }
            for policy, one in filled.items()
        }
        lookups = _lookups(calls, table, batches, about, options.plan, say)
        size = min(UPDATE_ROWS, resident.size)
        updates = {f"update-{policy}": one.updates(keys, table, size) for policy, one in filled.items()}
        for row in measure("updates", updates, [None], options.plan, say).rows.values():
            lookups.append(row | {"ns_a_row": row["p50_ms"] * 1e6 / size})
        readers = [
            row | {"policy": policy}
            for (policy, one), update in zip(filled.items(), updates.values(), strict=True)
            for row in measure_readers(one, batches, update, size, options.plan, say)
        ]
        lookups += measure_seen(filled, keys, size, options.plan, say)
        misses: list[Row] = []
        if count <= MISS_ROWS:
            found = measure_misses(keys, table, rows, options.plan, options.seed, say).rows
            misses = [row | _over("over", row, found["all hits"]) for row in found.values()]
    return {"table_mb": mb, "table_rows": count, "lookups": lookups, "readers": readers, "misses": misses}


def _lookups(
    calls: dict[str, Call], table: Floats, batches: Sequence[Batch], about: dict[str, Row], plan: Plan, say: Say
) -> list[dict[str, Any]]:
    """Returns a row a contender, the fastest of the floors first; every timed output is compared with the table."""

    def check(_: str, index: int, rows: Floats) -> None:
        if not np.array_equal(rows, table[batches[index].positions]):
            raise PepnetError("expected the table's rows, got others")

    rows = measure(f"lookups, {len(table):,} rows", calls, batches, plan, say, about=about, check=check).rows
    best = min(AHEAD, key=lambda ahead: float(rows[f"floor, {ahead} ahead"]["p50_ms"]))
    floor, ours = rows[f"floor, {best} ahead"], rows[f"cache-{POLICIES[0]}"]
    for row in rows.values():
        row["ns_a_row"] = row["p50_ms"] * 1e6 / batches[0].positions.size
        row |= _over("over_floor", row, floor) | _over("over_ours", row, ours)
    return sorted(rows.values(), key=lambda row: row is not floor)


def _over(name: str, row: Row, other: Row) -> Row:
    """Returns how many times as long as `other` it took, under that name; nothing for itself."""
    return {name: ratio} if (ratio := other["speedups"].get(row["name"])) else {}
