"""`bench sync`: what an engine that follows a log costs its callers, and how fresh it is.

A publisher in a process of its own, scoring threads, and slices of three kinds that take turns: nothing is published,
deltas are appended to a log that nobody reads, or to the log that the engine follows. The second shows what the
publisher itself takes from the scoring threads where it shares their CPUs; what the third adds is the follower's.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import enumerate as all_threads
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from msgspec import Meta, structs

from pepnet_infer import Engine
from pepnet_infer.bench.harness import machine
from pepnet_infer.bench.harness.busy import BusyMeter
from pepnet_infer.bench.harness.interleave import williams_square
from pepnet_infer.bench.harness.measure import Say
from pepnet_infer.bench.harness.report import Report
from pepnet_infer.bench.harness.statistics import p99_ratio
from pepnet_infer.bench.harness.workloads import Traffic
from pepnet_infer.bench.sync.page import sync_page
from pepnet_infer.bench.sync.publisher import Order, Published, Publisher, Publishing, Times, Trainer, log_path
from pepnet_infer.bench.sync.scoring import Scorers, Watch
from pepnet_infer.errors import PepnetError
from pepnet_infer.rows.cache.config import CacheConfig, Policy
from pepnet_infer.sync.follow_config import FollowConfig, Guard
from pepnet_infer.sync.follower import Follower
from pepnet_infer.sync.logs.directory import DirectoryLog
from pepnet_infer.validation import Count, NotNegative, Options, Positive, Several

ORDERS: tuple[Order, ...] = ("idle", "elsewhere", "follow")
SLICE_S, SAMPLE_S = 1.0, 0.1
BATCHES = 64  # that are drawn before, and scored in turn
#: What was asked: p99 with updates over p99 without, and seconds from the log to the first call.
P99, VISIBLE_S = 1.2, 1.0
#: Rows a second that are published where nobody asks for others: a share of what the follower takes when nothing is
#: scored, up to a rate of a large trainer. PROBES: deltas that this is measured with.
BEARABLE, MOST_ROWS_PER_S = 0.25, 100_000
PROBES = 4
_PATIENCE_S = 30.0


class SyncOptions(Options, frozen=True):
    """What the command was asked for."""

    rows_per_s: Several | None = None  # None: what the bundle and its follower can bear, measured first
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

    call_ns: list[npt.NDArray[np.int64]] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    scored_s: float = 0.0
    follower_cpu_s: float = 0.0
    busy: list[float] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        """Returns what was scored and published, as JSON values."""
        calls, done = np.concatenate(self.call_ns), self.published
        p50, p99 = np.percentile(calls, (50, 99)) / 1e6
        seconds = sum(one.seconds for one in done)
        return {
            "calls": int(calls.size),
            "calls_per_s": calls.size / self.scored_s,
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "max_ms": float(calls.max()) / 1e6,
            **{name: sum(getattr(one, name) for one in done) for name in ("deltas", "late", "bytes")},
            "rows_per_s": sum(one.rows for one in done) / seconds,
            "publisher_cpus": sum(one.cpu_s for one in done) / seconds,
            "follower_cpus": self.follower_cpu_s / self.scored_s,
            "others_busy": max(self.busy),
        }


@dataclass
class _Run:
    follower: Follower
    publisher: Publisher
    scorers: Scorers
    kinds: dict[Order, _Kind]
    series: list[dict[str, Any]] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def slice(self, order: Order) -> None:
        """Measures one slice. What was published in it has gone down when it is over."""
        kind = self.kinds[order]
        self.publisher.order(order)
        follower, others = _thread_cpu("pepnet-follow"), BusyMeter()
        begin, ends = time.perf_counter_ns(), time.perf_counter() + SLICE_S
        while (left := ends - time.perf_counter()) > 0:
            time.sleep(min(left, SAMPLE_S))
            self._sample(order)
        end = time.perf_counter_ns()
        kind.follower_cpu_s += _thread_cpu("pepnet-follow") - follower
        kind.busy.append(others.others())
        done = self.publisher.order("idle")
        kind.published.append(done)
        began, ended = self.scorers.calls()
        kind.call_ns.append((ended - began)[(began >= begin) & (ended <= end)])
        kind.scored_s += (end - begin) / 1e9
        if done.times:
            _drain(self.follower, max(done.times))

    def _sample(self, order: Order) -> None:
        stats = self.follower.stats()
        took = self.scorers.recent(time.perf_counter_ns() - int(SAMPLE_S * 1e9)) / 1e6
        point = {"at_s": round(time.perf_counter() - self.began, 3), "order": order, "version": stats["model_version"]}
        point |= {"rows": stats["rows"], "lag_s": stats["lag_s"]}
        point |= {"p50_ms": float(np.median(took)) if took.size else None}
        self.series.append(point | {"max_ms": float(took.max()) if took.size else None})


def measure_sync(bundle: Path, name: str, options: SyncOptions, say: Say = lambda _: None) -> Report:
    """Measures everything `bench sync` reports. Raises PepnetError for a bundle with too few rows for a delta."""
    facts = machine.facts()
    with tempfile.TemporaryDirectory(prefix="pepnet-bench-sync-") as folder:
        bearable = None
        if options.rows_per_s is None:
            bearable = bearable_rows(bundle, Path(folder) / "probe", options, say)
            options = structs.replace(options, rows_per_s=bearable["published"])
        given = _publishing(bundle, Path(folder), options, round((options.rows_per_s or 0) * options.delta_s))
        say("starting the publisher")
        with Publisher(given) as publisher, _following(given, options) as (engine, follower):
            traffic = Traffic(engine.bundle, options.seed)
            batches = [traffic.columns(options.batch) for _ in range(BATCHES)]
            data = _measure(engine, follower, publisher, batches, options, say)
    data = {"bundle": name, "bearable": bearable, "options": structs.asdict(options), **data}
    return sync_page(data, facts)


def bearable_rows(bundle: Path, folder: Path, options: SyncOptions, say: Say = lambda _: None) -> dict[str, Any]:
    """Returns the rows a second that the follower of a bundle takes while nothing is scored, and what to publish.

    From the moment that `PROBES` deltas lie in the log until all their rows are in the cache. Published is a share
    of that, `MOST_ROWS_PER_S` at most, and no more a delta than the bundle has rows.
    """
    say("measuring how many rows a second the follower takes")
    given = replace(_publishing(bundle, folder, options, None), ahead=PROBES)
    trainer = Trainer(given)
    trainer.prepare("follow")
    with _following(given, options) as (_, follower):
        begin = time.perf_counter()
        versions = [trainer.publish("follow")[0] for _ in range(PROBES)]
        _drain(follower, versions[-1])
        took = PROBES * trainer.rows / (time.perf_counter() - begin)
    most = min(BEARABLE * took, MOST_ROWS_PER_S, trainer.all_rows / options.delta_s)
    return {"taken": took, "share": BEARABLE, "published": max(math.ceil(1 / options.delta_s), int(most))}


def _publishing(bundle: Path, folder: Path, options: SyncOptions, rows: int | None) -> Publishing:
    ahead = math.ceil(SLICE_S / options.delta_s) + 2
    return Publishing(bundle.resolve(), folder, rows, options.delta_s, options.dense_every, options.seed, ahead)


@contextmanager
def _following(given: Publishing, options: SyncOptions) -> Iterator[tuple[Engine, Follower]]:
    """An engine that follows the log of a publisher, as a server would: its own thread scores nothing."""
    cache, log = CacheConfig(policy=options.policy), DirectoryLog(log_path(given.folder, "follow"), create=True)
    with Engine.load(given.bundle, backend="native", threads=1, cache=cache, options={"spin": False}) as engine:
        # Rows that change places are no trainer's: the guard does its work on them, and has nothing to refuse.
        guard = Guard(mean=1.0, psi=100.0)
        yield engine, engine.follow(log, FollowConfig(name="bench", wait_s=0.5, share=options.share, guard=guard))


def _measure(
    engine: Engine,
    follower: Follower,
    publisher: Publisher,
    batches: Sequence[Any],
    options: SyncOptions,
    say: Say,
) -> dict[str, Any]:
    for batch in batches:
        engine.score(batch)
    first_version, before = engine.model_version, _resident_bytes()
    scorers, watch = Scorers(engine, batches, options.threads, options.load), Watch(engine, follower)
    kinds: dict[Order, _Kind] = {order: _Kind() for order in ORDERS}
    run, count = _Run(follower, publisher, scorers, kinds), rounds(options)
    try:
        square = williams_square(len(ORDERS))
        for number in range(count):
            say(f"measuring; round {number + 1} of {count}")
            for place in square[number % len(square)]:
                run.slice(ORDERS[place])
    finally:
        watch.stop()
        scorers.stop()
        publisher.order("end")
    times = {version: at for done in kinds["follow"].published for version, at in done.times.items()}
    seen = {version: at for version in times if (at := watch.visible(version)) is not None}
    fresh, visible = (_spread([seen[v] - getattr(times[v], since) for v in seen]) for since in Times._fields)
    pairs: tuple[tuple[Order, Order], ...] = (("follow", "idle"), ("follow", "elsewhere"), ("elsewhere", "idle"))
    ratios = {
        f"{above} over {below}": p99_ratio(kinds[above].call_ns, kinds[below].call_ns, options.seed)
        for above, below in pairs
    }
    return {
        "rounds": count,
        "slice_s": SLICE_S,
        "kinds": {order: kind.describe() for order, kind in kinds.items()},
        "p99": ratios,
        "freshness_ms": fresh,
        "visible_ms": visible,
        "claims": [
            {"what": "scoring p99 with updates over without", "bound": P99, "got": ratios["follow over idle"]["ratio"]},
            {"what": "seconds from published to visible, p99", "bound": VISIBLE_S, "got": visible["p99"] / 1e3},
        ],
        "lag_s": max(point["lag_s"] for point in run.series),
        "follower": follower.stats(),
        "resident_bytes": {"before": before, "after": _resident_bytes()},
        "series": _series(run.series, times, seen, first_version),
    }


def rounds(options: SyncOptions) -> int:
    """Returns how many slices of each kind fit into the time."""
    return max(2, round(options.seconds / (SLICE_S * len(ORDERS))))


def _drain(follower: Follower, version: int) -> None:
    """Waits until a version is served and all rows are in the cache. Raises PepnetError when that takes too long."""
    if not follower.wait_for(version, _PATIENCE_S):
        raise PepnetError(f"follower: expected version {version} within {_PATIENCE_S:g} s, got {follower.stats()}")
    ends = time.monotonic() + _PATIENCE_S
    while follower.stats()["written_back"] < follower.stats()["applied"]:
        if time.monotonic() > ends:
            raise PepnetError(f"follower: expected all rows in the cache within {_PATIENCE_S:g} s, they are not")
        time.sleep(0.01)


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        raise PepnetError("follower: expected versions that became visible, got none")
    # A version may be seen a moment before the publisher knows that it is on the disk.
    values = 1e3 * np.maximum(seconds, 0.0)
    p50, p99 = np.percentile(values, (50, 99))
    return {"deltas": len(seconds), "p50": float(p50), "p99": float(p99), "max": float(values.max())}


def _series(
    samples: Sequence[dict[str, Any]], times: dict[int, Times], seen: dict[int, float], first_version: int
) -> list[dict[str, Any]]:
    """Returns the samples, with versions counted from the bundle's, rows as a rate, and the last delta's freshness."""
    points, rows, at = [], 0, 0.0
    for sample in samples:
        version, elapsed = sample["version"], max(sample["at_s"] - at, 1e-3)
        point = {key: sample[key] for key in ("at_s", "order", "p50_ms", "max_ms")}
        point |= {"version": version - first_version, "rows_per_s": (sample["rows"] - rows) / elapsed}
        point["fresh_ms"] = (seen[version] - times[version].produced) * 1e3 if version in seen else None
        points.append(point)
        rows, at = sample["rows"], sample["at_s"]
    return points


def _resident_bytes() -> int:
    """Returns how much of this process is in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _thread_cpu(name: str) -> float:
    """Returns the CPU seconds of a thread of this process."""
    for thread in all_threads():
        if thread.name == name and thread.ident is not None:
            return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    raise PepnetError(f"threads: expected {name}, got none: it has ended")
