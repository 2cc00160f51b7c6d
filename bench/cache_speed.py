"""`bench cache-speed`: the cache's lookups beside their peers, its readers beside each other and a writer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pepnet_infer.bench import cache_speed_claims as asked
from pepnet_infer.bench import machine
from pepnet_infer.bench.cache_peers import Gather
from pepnet_infer.bench.cache_peers.contender import contiguous
from pepnet_infer.bench.cache_peers.native import PeerLibrary
from pepnet_infer.bench.cache_peers.ours import public_contender
from pepnet_infer.bench.cache_speed_claims import Claim
from pepnet_infer.bench.cache_speed_lookup import Stage, compare_lookups, prepared
from pepnet_infer.bench.cache_speed_misses import measure_misses
from pepnet_infer.bench.cache_speed_threads import Load, Updates, p99_ratio, ratio_by_round, run_loads
from pepnet_infer.bench.cache_speed_visible import visibility
from pepnet_infer.bench.latency import Plan
from pepnet_infer.bench.report import Result
from pepnet_infer.checked import Options, Positive, Several
from pepnet_infer.errors import PepnetError

#: Rounds of slices with threads, and seconds a slice.
ROUNDS, SLICE_S = 30, 0.1
#: Rows of the largest table that is put into a store in memory too.
MISS_ROWS = 1_000_000
#: Bytes of memory needed for one byte of table: the table, two caches and three peers of ours in C++, and slack.
MEMORY_A_TABLE = 8


class CacheSpeedOptions(Options, frozen=True):
    """What the command was asked for."""

    peers: Path
    tables_mb: Sequence[Several] = (64, 800)
    rows: Several = 20480
    dim: Several = 40
    plan: Plan = Plan()
    slice_s: Positive = SLICE_S
    seed: int = 0


def measure_cache_speed(
    command: str, options: CacheSpeedOptions, say: Callable[[str], None] = lambda _: None
) -> Result:
    """Measures everything `bench cache-speed` reports. Raises PepnetError for a wrong library or too little memory."""
    library = PeerLibrary(options.peers)
    _check_memory(max(options.tables_mb))
    facts = machine.facts()
    claims: list[Claim] = []
    tables = []
    for mb in options.tables_mb:
        with prepared(library, mb, options.dim, options.rows, options.seed, say) as stage:
            lookups = compare_lookups(library, stage, options.plan, say)
            claims += _lookup_claims(lookups, stage)
            entry: dict[str, Any] = {"lookups": lookups, "huge_bytes": _huge_bytes(), "threads": {}}
            fastest = Gather(lookups["floor"]["ahead"], lookups["floor"]["width"])
            for policy in stage.caches:
                threads, more = _with_threads(stage, policy, fastest, options, say)
                entry["threads"][policy] = threads
                claims += more
            if len(stage.workload.keys) <= MISS_ROWS:
                entry["misses"] = measure_misses(stage.workload, options.rows, options.plan, options.seed, say)
                claims.append(_miss_claim(mb, entry["misses"]))
            tables.append(entry)
    return Result(
        kind="cache-speed",
        command=command,
        machine=facts,
        data={
            "rows": options.rows,
            "dim": options.dim,
            "plan": {"runs": options.plan.runs, "seconds": options.plan.seconds, "warm_s": options.plan.warm_s},
            "slices": {"rounds": ROUNDS, "seconds": options.slice_s},
            "huge_pages": Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text().strip(),
            "claims": [claim.entry() for claim in claims],
            "tables": tables,
        },
    )


def _lookup_claims(lookups: dict[str, Any], stage: Stage) -> list[Claim]:
    claims = asked.lookup_claims(stage.mb, lookups["table_rows"], lookups["contenders"], list(stage.caches))
    for cache in lookups["caches"]:
        got = cache["metadata_bytes_a_row"]
        claims.append(Claim("metadata a row", stage.mb, cache["policy"], asked.METADATA, False, got, " bytes"))
    return claims


def _with_threads(
    stage: Stage, policy: str, fastest: Gather, options: CacheSpeedOptions, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[Claim]]:
    """One and two readers, with and without a writer, the writer alone, and the floor's readers for comparison."""
    filled, workload = stage.caches[policy], stage.workload
    readers = [public_contender(filled, contiguous(stage.rows, stage.dim), f"reader {i}") for i in range(2)]
    floors = [stage.dense.contender(f"floor {i}", fastest, contiguous(stage.rows, stage.dim)) for i in range(2)]
    updates = Updates(filled, workload, options.seed)
    loads = [
        Load("1 reader", readers[:1]),
        Load("2 readers", readers),
        Load("2 readers, paced writer", readers, float(asked.UPDATES_A_SECOND)),
        Load("1 reader, writer", readers[:1], math.inf),
        Load("writer", [], math.inf),
        Load("1 floor", floors[:1]),
        Load("2 floors", floors),
    ]
    meter = machine.BusyMeter()
    say(f"measuring threads, {stage.mb} MiB, {policy}")
    counted = run_loads(loads, updates, workload.batches, ROUNDS, options.slice_s, say)
    busy = meter.others()
    one, two, updated = counted["1 reader"], counted["2 readers"], counted["2 readers, paced writer"]
    pair, pair_updated = ratio_by_round(two, one), ratio_by_round(updated, one)
    written, tail = counted["writer"].describe()["updates_per_s"], p99_ratio(counted["1 reader, writer"], one)
    seen = visibility(filled, workload, seed=options.seed)
    mb = stage.mb
    claims = [
        _ranged(Claim("2 readers over 1", mb, policy, asked.READERS, True, pair["ratio"]), pair),
        _ranged(
            Claim(
                f"2 readers over 1, {asked.UPDATES_A_SECOND:,} updates/s",
                mb,
                policy,
                asked.READERS_UPDATED,
                True,
                pair_updated["ratio"],
            ),
            pair_updated,
        ),
        Claim("updates by one writer", mb, policy, asked.WRITER, True, written, " rows/s"),
        _ranged(Claim("reader p99 beside a writer", mb, policy, asked.READER_P99, False, tail["ratio"]), tail),
        Claim("an update is seen after", mb, policy, asked.VISIBLE_MS, False, seen["max_ms"], " ms"),
    ]
    floor_pair = ratio_by_round(counted["2 floors"], counted["1 floor"])
    described = {name: count.describe() for name, count in counted.items()}
    return {
        "loads": described,
        "two_readers": pair,
        "two_readers_updated": pair_updated,
        "two_floors": floor_pair,
        "reader_p99": tail,
        "visibility": seen,
        "others_busy": busy,
    }, claims


def _miss_claim(mb: int, misses: dict[str, Any]) -> Claim:
    ratio = misses["ratio"]
    return _ranged(Claim("time with 10 % misses over none", mb, "lru", asked.MISSES, False, ratio["ratio"]), ratio)


def _ranged(claim: Claim, ratio: dict[str, float]) -> Claim:
    return replace(claim, low=ratio["low"], high=ratio["high"])


def _check_memory(mb: int) -> None:
    """Raises PepnetError when the machine has no room for the largest table and all that is made from it."""
    wanted = MEMORY_A_TABLE * mb << 20
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
            if free < wanted:
                raise PepnetError(f"a table of {mb} MiB: expected {wanted >> 20} MiB of free memory, got {free >> 20}")
            return


def _huge_bytes() -> int:
    """Returns the bytes of this process that lie on huge pages."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    return 0
