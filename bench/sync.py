"""`bench sync`: what an engine that follows a log costs its callers, and how fresh it is.

A publisher in a process of its own, scoring threads, and slices of three kinds that take turns: nothing is published,
deltas are appended to a log that nobody reads, or to the log that the engine follows. The second shows what the
publisher itself takes from the scoring threads where it shares their CPUs; what the third adds is the follower's.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from threading import enumerate as all_threads
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from msgspec import Meta, structs

from pepnet_infer import Engine
from pepnet_infer.bench import machine
from pepnet_infer.bench.cache_speed_threads import Counted, p99_ratio
from pepnet_infer.bench.latency import williams_square
from pepnet_infer.bench.report import Result
from pepnet_infer.bench.sync_publisher import Order, Published, Publisher, Publishing, Times, log_path
from pepnet_infer.bench.sync_scoring import Scorers, Watch
from pepnet_infer.bench.workloads import Traffic
from pepnet_infer.checked import Count, NotNegative, Options, Positive, Several
from pepnet_infer.errors import PepnetError
from pepnet_infer.rows.cache.config import Policy
from pepnet_infer.sync.follow_config import FollowConfig, Guard
from pepnet_infer.sync.follower import Follower
from pepnet_infer.sync.logs.directory import DirectoryLog

ORDERS: tuple[Order, ...] = ("idle", "elsewhere", "follow")
SLICE_S, SAMPLE_S = 1.0, 0.1
BATCHES = 64  # that are drawn before, and scored in turn
#: What was asked: p99 with updates over p99 without, and seconds from the log to the first call.
P99, VISIBLE_S = 1.2, 1.0
_PATIENCE_S = 30.0


class SyncOptions(Options, frozen=True):
    """What the command was asked for."""

    rows_per_s: Several = 100_000
    delta_s: Positive = 0.25
    dense_every: Count = 20
    threads: Several = 2
    seconds: Positive = 30.0
    batch: Several = 256
    load: NotNegative = 1.0
    share: Annotated[float, Meta(gt=0, le=1)] = FollowConfig().share
    policy: Policy = "gset"
    seed: int = 0


@dataclass
class _Kind:
    """All slices of one kind."""

    counted: Counted = field(default_factory=Counted)
    published: list[Published] = field(default_factory=list)
    scored_s: float = 0.0
    follower_cpu_s: float = 0.0
    busy: list[float] = field(default_factory=list)


@dataclass
class _Run:
    engine: Engine
    follower: Follower
    publisher: Publisher
    scorers: Scorers
    watch: Watch
    kinds: dict[Order, _Kind]
    series: list[dict[str, Any]]
    began: float

    def slice(self, order: Order) -> None:
        """Measures one slice. What was published before it has gone down when it begins."""
        kind = self.kinds[order]
        self.publisher.order(order)
        follower, others = _thread_cpu("pepnet-follow"), machine.BusyMeter()
        begin = time.perf_counter_ns()
        ends = time.perf_counter() + SLICE_S
        while (left := ends - time.perf_counter()) > 0:
            time.sleep(min(left, SAMPLE_S))
            self._sample(order)
        end = time.perf_counter_ns()
        kind.follower_cpu_s += _thread_cpu("pepnet-follow") - follower
        kind.busy.append(others.others())
        done = self.publisher.order("idle")
        kind.published.append(done)
        began, ended = self.scorers.calls()
        inside = (began >= begin) & (ended <= end)
        kind.counted.call_ns.append((ended - began)[inside])
        kind.scored_s += (end - begin) / 1e9
        self._drain(done)

    def _drain(self, done: Published) -> None:
        last = max(done.times, default=None)
        if last is not None and not self.follower.wait_for(last, _PATIENCE_S):
            got = self.follower.stats()
            raise PepnetError(f"follower: expected version {last} within {_PATIENCE_S:g} s, got {got}")
        ends = time.monotonic() + _PATIENCE_S
        while self.follower.stats()["written_back"] < self.follower.stats()["applied"]:
            if time.monotonic() > ends:
                raise PepnetError(f"follower: expected all rows in the cache within {_PATIENCE_S:g} s, they are not")
            time.sleep(0.01)

    def _sample(self, order: Order) -> None:
        stats, now = self.follower.stats(), time.perf_counter()
        took = self.scorers.recent(time.perf_counter_ns() - int(SAMPLE_S * 1e9))
        self.series.append(
            {
                "at_s": round(now - self.began, 3),
                "order": order,
                "version": stats["model_version"],
                "rows": stats["rows"],
                "lag_s": stats["lag_s"],
                "p50_ms": float(np.percentile(took, 50)) / 1e6 if took.size else None,
                "max_ms": float(took.max()) / 1e6 if took.size else None,
            }
        )


def measure_sync(
    bundle: Path, name: str, command: str, options: SyncOptions, say: Callable[[str], None] = lambda _: None
) -> Result:
    """Measures everything `bench sync` reports. Raises PepnetError for a bundle with too few rows for a delta."""
    from pepnet_infer.rows.cache.config import CacheConfig

    facts = machine.facts()
    cache = CacheConfig(policy=options.policy)
    with tempfile.TemporaryDirectory(prefix="pepnet-bench-sync-") as folder:
        given = Publishing(
            bundle.resolve(),
            Path(folder),
            round(options.rows_per_s * options.delta_s),
            options.delta_s,
            options.dense_every,
            options.seed,
            math.ceil(SLICE_S / options.delta_s) + 2,
        )
        say("starting the publisher")
        with (
            Publisher(given) as publisher,
            Engine.load(bundle, backend="native", threads=1, cache=cache, options={"spin": False}) as engine,
        ):
            traffic = Traffic(engine.bundle, options.seed)
            batches = [traffic.columns(options.batch) for _ in range(BATCHES)]
            log = DirectoryLog(log_path(Path(folder), "follow"), create=True)
            # Rows that change places are no trainer's: the guard does its work on them, and has nothing to refuse.
            guard = Guard(mean=1.0, psi=100.0)
            follower = engine.follow(log, FollowConfig(name="bench", wait_s=0.5, share=options.share, guard=guard))
            data = _measure(engine, follower, publisher, batches, options, say)
    data = {"bundle": name, "schema_hash": engine.schema.hash, "options": structs.asdict(options), **data}
    return Result(kind="sync", command=command, machine=facts, data=data)


def _measure(
    engine: Engine,
    follower: Follower,
    publisher: Publisher,
    batches: list[Any],
    options: SyncOptions,
    say: Callable[[str], None],
) -> dict[str, Any]:
    for batch in batches:
        engine.score(batch)
    first_version = engine.model_version
    before = resident_bytes()
    scorers, watch = Scorers(engine, batches, options.threads, options.load), Watch(engine, follower)
    kinds: dict[Order, _Kind] = {order: _Kind() for order in ORDERS}
    run = _Run(engine, follower, publisher, scorers, watch, kinds, [], time.perf_counter())
    try:
        square = williams_square(len(ORDERS))
        count = rounds(options)
        for number in range(count):
            say(f"measuring; round {number + 1} of {count}")
            for place in square[number % len(square)]:
                run.slice(ORDERS[place])
    finally:
        watch.stop()
        scorers.stop()
        publisher.order("end")
    after = resident_bytes()
    stats = follower.stats()
    series = _series(run, first_version)
    fresh, visible = _freshness(run, attrgetter("produced")), _freshness(run, attrgetter("published"))
    ratios = {
        "follow over idle": p99_ratio(kinds["follow"].counted, kinds["idle"].counted, options.seed),
        "follow over elsewhere": p99_ratio(kinds["follow"].counted, kinds["elsewhere"].counted, options.seed),
        "elsewhere over idle": p99_ratio(kinds["elsewhere"].counted, kinds["idle"].counted, options.seed),
    }
    return {
        "rounds": count,
        "slice_s": SLICE_S,
        "kinds": {order: _describe(kind) for order, kind in kinds.items()},
        "p99": ratios,
        "freshness_ms": fresh,
        "visible_ms": visible,
        "claims": [
            {"what": "scoring p99 with updates over without", "bound": P99, "got": ratios["follow over idle"]["ratio"]},
            {"what": "seconds from published to visible, p99", "bound": VISIBLE_S, "got": visible["p99"] / 1e3},
        ],
        "lag_s": max(point["lag_s"] for point in run.series),
        "follower": stats,
        "resident_bytes": {"before": before, "after": after},
        "series": series,
    }


def rounds(options: SyncOptions) -> int:
    """Returns how many slices of each kind fit into the time."""
    return max(2, round(options.seconds / (SLICE_S * len(ORDERS))))


def _describe(kind: _Kind) -> dict[str, Any]:
    calls = np.concatenate(kind.counted.call_ns)
    published = kind.published
    seconds = sum(one.seconds for one in published)
    deltas, rows = sum(one.deltas for one in published), sum(one.rows for one in published)
    return {
        "calls": int(calls.size),
        "calls_per_s": calls.size / kind.scored_s,
        "p50_ms": float(np.percentile(calls, 50)) / 1e6,
        "p99_ms": float(np.percentile(calls, 99)) / 1e6,
        "max_ms": float(calls.max()) / 1e6,
        "deltas": deltas,
        "late": sum(one.late for one in published),
        "rows_per_s": rows / seconds,
        "bytes": sum(one.bytes for one in published),
        "publisher_cpus": sum(one.cpu_s for one in published) / seconds,
        "follower_cpus": kind.follower_cpu_s / kind.scored_s,
        "others_busy": max(kind.busy),
    }


def _times(run: _Run) -> dict[int, Times]:
    return {version: at for done in run.kinds["follow"].published for version, at in done.times.items()}


def _freshness(run: _Run, since: Callable[[Times], float]) -> dict[str, float]:
    took: list[float] = []
    for version, times in _times(run).items():
        seen = run.watch.visible(version)
        if seen is not None:  # it may be seen a moment before the publisher knows that it is on the disk
            took.append(max(0.0, seen - since(times)) * 1e3)
    if not took:
        raise PepnetError("follower: expected versions that became visible, got none")
    values: npt.NDArray[np.float64] = np.array(took)
    p50, p99 = np.percentile(values, (50, 99))
    return {"deltas": len(took), "p50": float(p50), "p99": float(p99), "max": float(values.max())}


def _series(run: _Run, first_version: int) -> list[dict[str, Any]]:
    """Returns the samples, with versions counted from the bundle's, rows as a rate, and the last delta's freshness."""
    times = _times(run)
    points, rows, at = [], 0, 0.0
    for point in run.series:
        version = point["version"]
        seen = run.watch.visible(version) if version in times else None
        elapsed = max(point["at_s"] - at, 1e-3)
        points.append(
            {
                **{key: point[key] for key in ("at_s", "order", "p50_ms", "max_ms")},
                "version": version - first_version,
                "rows_per_s": (point["rows"] - rows) / elapsed,
                "fresh_ms": None if seen is None else (seen - times[version].produced) * 1e3,
            }
        )
        rows, at = point["rows"], point["at_s"]
    return points


def resident_bytes() -> int:
    """Returns how much of this process is in memory."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise PepnetError("/proc/self/smaps_rollup: expected a line Rss, got none")


def _thread_cpu(name: str) -> float:
    """Returns the CPU seconds of a thread of this process."""
    for thread in all_threads():
        if thread.name == name and thread.ident is not None:
            return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    raise PepnetError(f"threads: expected {name}, got none: it has ended")
