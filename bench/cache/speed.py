"""`bench cache-speed`: the cache's lookups beside their peers, its readers beside each other and a writer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from pepnet_infer.bench.cache.claims import READERS_UPDATED, UPDATES_A_SECOND, claim, lookup_claims
from pepnet_infer.bench.cache.contender import contiguous
from pepnet_infer.bench.cache.lookups import Stage, compare_lookups, prepared
from pepnet_infer.bench.cache.misses import measure_misses
from pepnet_infer.bench.cache.native_peers import Gather, PeerLibrary
from pepnet_infer.bench.cache.peers import our_contender
from pepnet_infer.bench.cache.speed_page import cache_speed_page
from pepnet_infer.bench.cache.threads import Load, Updates, run_loads, visibility
from pepnet_infer.bench.harness import machine
from pepnet_infer.bench.harness.busy import BusyMeter
from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.harness.measure import Row, Say
from pepnet_infer.bench.harness.report import Report
from pepnet_infer.bench.harness.statistics import median_ratio, p99_ratio
from pepnet_infer.errors import PepnetError
from pepnet_infer.validation import Options, Positive, Several

#: Rows of the largest table that is put into a store in memory too.
MISS_ROWS = 1_000_000
#: Bytes of memory needed for one byte of table: the table, two caches and three peers of ours in C++, and slack.
MEMORY_A_TABLE = 8


class CacheSpeedOptions(Options, frozen=True):
    """What the command was asked for: `rounds` slices with threads, each `slice_s` long, among it."""

    peers: Path
    tables_mb: Sequence[Several] = (64, 800)
    rows: Several = 20480
    dim: Several = 40
    plan: Plan = Plan()
    slice_s: Positive = 0.1
    rounds: Several = 30
    seed: int = 0


def measure_cache_speed(options: CacheSpeedOptions, say: Say = lambda _: None) -> Report:
    """Measures everything `bench cache-speed` reports. Raises PepnetError for a wrong library or too little memory."""
    library = PeerLibrary(options.peers)
    _check_memory(max(options.tables_mb))
    facts = machine.facts()
    claims: list[Row] = []
    tables = []
    for mb in options.tables_mb:
        with prepared(library, mb, options.dim, options.rows, options.seed, say) as stage:
            lookups = compare_lookups(library, stage, options.plan, say)
            claims += lookup_claims(mb, lookups["table_rows"], lookups["contenders"], list(stage.caches))
            for cache in lookups["caches"]:
                got = cache["metadata_bytes_a_row"]
                claims.append(claim("metadata a row", mb, cache["policy"], got))
            entry: dict[str, Any] = {"lookups": lookups, "huge_bytes": _kib("/proc/self/smaps_rollup", "AnonHugePages")}
            entry["threads"] = {policy: _with_threads(stage, policy, lookups, options, say) for policy in stage.caches}
            claims += [
                claim for policy in stage.caches for claim in _thread_claims(mb, policy, entry["threads"][policy])
            ]
            if len(stage.workload.keys) <= MISS_ROWS:
                entry["misses"] = misses = measure_misses(stage.workload, options.rows, options.plan, options.seed, say)
                what = "time with 10 % misses over none"
                claims.append(claim(what, mb, "lru", misses["ratio"]))
            tables.append(entry)
    data = {
        "rows": options.rows,
        "dim": options.dim,
        "plan": structs.asdict(options.plan),
        "slices": {"rounds": options.rounds, "seconds": options.slice_s},
        "huge_pages": Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text().strip(),
        "claims": claims,
        "tables": tables,
    }
    return cache_speed_page(data, facts)


def _with_threads(
    stage: Stage, policy: str, lookups: dict[str, Any], options: CacheSpeedOptions, say: Say
) -> dict[str, Any]:
    """One and two readers, with and without a writer, the writer alone, and the floor's readers for comparison."""
    filled, workload = stage.caches[policy], stage.workload
    fastest = Gather(lookups["floor"]["ahead"], lookups["floor"]["width"])
    outs = [contiguous(stage.rows, stage.dim) for _ in range(2)]
    readers = [our_contender(filled, out, f"reader {i}") for i, out in enumerate(outs)]
    floors = [stage.dense.contender(f"floor {i}", fastest, out) for i, out in enumerate(outs)]
    loads = [
        Load("1 reader", readers[:1]),
        Load("2 readers", readers),
        Load("2 readers, paced writer", readers, float(UPDATES_A_SECOND)),
        Load("1 reader, writer", readers[:1], math.inf),
        Load("writer", [], math.inf),
        Load("1 floor", floors[:1]),
        Load("2 floors", floors),
    ]
    meter = BusyMeter()
    say(f"measuring threads, {stage.mb} MiB, {policy}")
    updates = Updates(filled, workload, options.seed)
    counted = run_loads(loads, updates, workload.batches, options.rounds, options.slice_s, say)
    busy = meter.others()
    one = counted["1 reader"]
    return {
        "loads": {name: count.describe() for name, count in counted.items()},
        "two_readers": median_ratio(counted["2 readers"].rows_per_s, one.rows_per_s),
        "two_readers_updated": median_ratio(counted["2 readers, paced writer"].rows_per_s, one.rows_per_s),
        "two_floors": median_ratio(counted["2 floors"].rows_per_s, counted["1 floor"].rows_per_s),
        "reader_p99": p99_ratio(counted["1 reader, writer"].call_ns, one.call_ns),
        "visibility": visibility(filled, workload, seed=options.seed),
        "others_busy": busy,
    }


def _thread_claims(mb: int, policy: str, got: dict[str, Any]) -> list[Row]:
    return [
        claim("2 readers over 1", mb, policy, got["two_readers"]),
        claim(READERS_UPDATED, mb, policy, got["two_readers_updated"]),
        claim("updates by one writer", mb, policy, got["loads"]["writer"]["updates_per_s"]),
        claim("reader p99 beside a writer", mb, policy, got["reader_p99"]),
        claim("an update is seen after", mb, policy, got["visibility"]["max_ms"]),
    ]


def _check_memory(mb: int) -> None:
    """Raises PepnetError when the machine has no room for the largest table and all that is made from it."""
    wanted, free = MEMORY_A_TABLE * mb << 20, _kib("/proc/meminfo", "MemAvailable")
    if free < wanted:
        raise PepnetError(f"a table of {mb} MiB: expected {wanted >> 20} MiB of free memory, got {free >> 20}")


def _kib(path: str, name: str) -> int:
    """Returns the bytes that a line of /proc says in kB."""
    for line in Path(path).read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise PepnetError(f"{path}: expected a line {name}, got none")
