"""`bench sync`: what an engine that follows a log costs its callers, and how fresh it is.

A publisher in a process of its own, scoring threads, and slices of three kinds that take turns: nothing is published,
deltas are appended to a log that nobody reads, or to the log that the engine follows. The second shows what the
publisher itself takes from the scoring threads where it shares their CPUs; what the third adds is the follower's.
"""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs

from pepnet_infer import Engine
from pepnet_infer.bench.harness.interleave import williams_square
from pepnet_infer.bench.harness.machine import BusyMeter, noise
from pepnet_infer.bench.harness.measure import Row, Say
from pepnet_infer.bench.harness.report import TIMES, Report, Table
from pepnet_infer.bench.harness.statistics import Times, describe_times, p99_ratio
from pepnet_infer.bench.harness.workloads import Traffic
from pepnet_infer.bench.sync.publisher import PROBES, SLICE_S, UNREAD, SyncOptions, Trainer, prepare, publish, publisher
from pepnet_infer.errors import PepnetError
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.sync.follow_config import FollowConfig, Guard
from pepnet_infer.sync.follower import Follower
from pepnet_infer.sync.logs.directory import DirectoryLog

#: Rows a second that are published where nobody asks for others: a share of what the follower takes when nothing is
#: scored, up to a rate of a large trainer.
BEARABLE, MOST_ROWS_PER_S = 0.25, 100_000
_BATCHES = 64  # that are drawn before, and scored in turn
_PATIENCE_S = 30.0
_SCORING = {
    "what is published": "{what}",
    **TIMES,
    "p99 over nothing published": "{p99_over_idle:ratio}",
    "p99 over the log that nobody reads": "{p99_over_elsewhere:ratio}",
    "max ms": "{max_ms:ms}",
    "calls/s": "{calls_per_s:.1f}",
    "rows published/s": "{rows_per_s:,.0f}",
    "follower CPU": "{follower_cpus:.1%}",
    "calls": "{runs:,}",
}
_FOLLOWER = {
    "deltas": "{applied:,}",
    "with weights": "{dense:,}",
    "published to visible: p50 ms": "{visible[p50_ms]:ms}",
    "p99 ms": "{visible[p99_ms]:ms}",
    "max ms": "{visible[max_ms]:ms}",
    "refused": "{refusals:d}",
}


@dataclass
class _Kind:
    """All slices of one kind. log: where deltas go, None for nowhere."""

    what: str
    log: str | None
    began: list[float] = field(default_factory=list)  # each slice, seconds of `perf_counter`
    calls_ms: list[Times] = field(default_factory=list)  # by slice
    published: dict[int, float] = field(default_factory=dict)  # by model version, seconds of `perf_counter`
    follower_cpu_s: float = 0.0
    busy: list[float] = field(default_factory=list)

    def describe(self, rows_a_delta: int, origin: float) -> Row:
        """Returns what was scored and published, as JSON values. origin: when the first slice of all began."""
        seconds, slices = len(self.calls_ms) * SLICE_S, zip(self.began, self.calls_ms, strict=True)
        calls = describe_times(np.concatenate(self.calls_ms))
        return {
            "what": self.what,
            **calls,
            "slices": [{"at_s": began - origin, **describe_times(took)} for began, took in slices if took.size],
            "calls_per_s": calls["runs"] / seconds,
            "deltas": len(self.published),
            "rows_per_s": len(self.published) * rows_a_delta / seconds,
            "follower_cpus": self.follower_cpu_s / seconds,
            "others_busy": max(self.busy),
        }


def measure_sync(bundle: Path, name: str, options: SyncOptions, say: Say = lambda _: None) -> Report:
    """Measures everything `bench sync` reports. Raises PepnetError for a bundle with too few rows for a delta."""
    origin = "as asked for"
    with tempfile.TemporaryDirectory(prefix="pepnet-bench-sync-") as folder:
        rows_per_s = options.rows_per_s
        if rows_per_s is None:
            say("measuring how many rows a second the follower takes")
            taken, rows_per_s = bearable_rows(bundle, Path(folder) / "probe", options)
            origin = f"{BEARABLE:.0%} of the {taken:,.0f} that the follower takes alone, {MOST_ROWS_PER_S:,} at most"
        rows, path = round(rows_per_s * options.delta_s), bundle.resolve()
        say("starting the publisher")
        with (
            publisher(path, Path(folder), options, rows) as process,
            _following(path, Path(folder), options) as (engine, follower),
        ):
            data = _measure(engine, follower, process, rows, options, say)
    data = {"bundle": name, "options": structs.asdict(options), "rows_per_s": rows_per_s, **data}
    return Report(
        "sync",
        f"Online sync, {name}",
        f"{rows_per_s:,} changed rows a second ({origin}) in deltas of {options.delta_s:g} s, dense weights with every "
        f"{options.dense_every}th; {options.threads} threads score batches of {options.batch}, each {options.load:.0%} "
        f"of the time; {noise(data['kinds'][0]['others_busy'])}, while nothing was published.",
        data,
        [
            Table(
                "Scoring",
                data["kinds"],
                _SCORING,
                "Ratios: all calls of one kind over all of the other; the middle 95 % when rounds are drawn again. "
                "CPU: of one CPU, by the thread's own clock.",
            ),
            Table("The follower", [data["follower"]], _FOLLOWER),
        ],
        notes=[
            f"{data['rounds']} rounds of slices of {SLICE_S:g} s, each kind once a round, in balanced order. Calls "
            "that reach over the end of a slice are left out."
        ],
        picture=lambda: _picture(data),
    )


def bearable_rows(bundle: Path, folder: Path, options: SyncOptions) -> tuple[float, int]:
    """Returns the rows a second that the follower of a bundle takes while nothing is scored, and what to publish.

    From the moment that `PROBES` deltas lie in the log until all their rows are in the cache. Published is a share
    of that, `MOST_ROWS_PER_S` at most, and no more a delta than the bundle has rows.
    """
    trainer = Trainer(bundle, folder, options)
    trainer.prepare("follow")
    with _following(bundle, folder, options) as (_, follower):
        begin = time.perf_counter()
        versions = [trainer.publish("follow")[0] for _ in range(PROBES)]
        _drain(follower, versions[-1])
        taken = PROBES * trainer.rows / (time.perf_counter() - begin)
    most = min(BEARABLE * taken, MOST_ROWS_PER_S, trainer.all_rows / options.delta_s)
    return taken, max(math.ceil(1 / options.delta_s), int(most))


@contextmanager
def _following(bundle: Path, folder: Path, options: SyncOptions) -> Iterator[tuple[Engine, Follower]]:
    """An engine that follows the log of a publisher, as a server would: its own thread scores nothing."""
    cache, log = CacheConfig(), DirectoryLog(folder / "follow", create=True)
    with Engine.load(bundle, backend="native", threads=1, cache=cache, options={"spin": False}) as engine:
        # Rows that change places are no trainer's: the guard does its work on them, and has nothing to refuse.
        guard = Guard(mean=1.0, psi=100.0)
        yield engine, engine.follow(log, FollowConfig(name="bench", wait_s=0.5, share=options.share, guard=guard))


def _measure(
    engine: Engine, follower: Follower, process: Executor, rows_a_delta: int, options: SyncOptions, say: Say
) -> dict[str, Any]:
    traffic = Traffic(engine.bundle)
    batches = [traffic.columns(options.batch) for _ in range(_BATCHES)]
    for batch in batches:
        engine.score(batch)
    stop = threading.Event()
    calls: list[tuple[int, int]] = []  # of the slice that goes on, by all threads
    seen: list[tuple[float, int]] = []
    idle = _Kind("nothing is published", None)
    elsewhere = _Kind("to a log that nobody reads", UNREAD)
    follow = _Kind("to the log that is followed", "follow")
    kinds = (idle, elsewhere, follow)
    count = max(2, round(options.seconds / (SLICE_S * len(kinds))))  # of slices of each kind
    work = []
    with ThreadPoolExecutor(options.threads + 1) as pool:
        try:
            work.append(pool.submit(_watch, engine, follower, stop, seen))
            for number in range(options.threads):
                first = 29 * number % _BATCHES
                work.append(pool.submit(_score, engine, batches[first:] + batches[:first], options.load, stop, calls))
            square = williams_square(len(kinds))
            say(f"measuring {count} rounds")
            for number in range(count):
                for place in square[number % len(square)]:
                    _slice(kinds[place], follower, process, calls)
        finally:
            stop.set()
            for thread in work:
                thread.result()
    # A version is visible once it, or a later one, is served: maybe a moment before the publisher knows that it is on
    # the disk.
    times, versions = np.array(seen).T
    published = np.array(list(follow.published.values()))
    visible_ms = 1e3 * np.maximum(times[np.searchsorted(versions, list(follow.published))] - published, 0.0)
    origin = min(kind.began[0] for kind in kinds)
    points = zip((published - origin).tolist(), visible_ms.tolist(), strict=True)
    stats = follower.stats()
    return {
        "rounds": count,
        "kinds": [
            {
                **kind.describe(rows_a_delta, origin),
                "p99_over_idle": p99_ratio(kind.calls_ms, idle.calls_ms),
                "p99_over_elsewhere": p99_ratio(kind.calls_ms, elsewhere.calls_ms),
            }
            for kind in kinds
        ],
        "follower": {
            **stats,
            "refusals": sum(stats["refused"].values()),
            "visible": describe_times(visible_ms),
            "published": [{"at_s": at_s, "visible_ms": millis} for at_s, millis in points],
        },
    }


def _picture(data: dict[str, Any]) -> bytes:
    """Returns a PNG: over time, how long each delta took to be visible, and the scoring latency of each slice."""
    from pepnet_infer.bench.harness.pictures import Chart, Line, draw_lines

    def line(label: str, points: Sequence[Row], value: str) -> Line:
        return Line(label, [point["at_s"] for point in points], [point[value] for point in points], label)

    charts = [
        Chart("Published to visible", "seconds", "ms", [line("deltas", data["follower"]["published"], "visible_ms")])
    ]
    for name in ("p50", "p99"):
        lines = [line(kind["what"], kind["slices"], f"{name}_ms") for kind in data["kinds"]]
        charts.append(Chart(f"Scoring, {name} of a slice", "seconds", "ms", lines))
    threads = data["options"]["threads"]
    subtitle = f"{data['rows_per_s']:,} changed rows a second while {threads} threads score"
    return draw_lines(f"Online sync, {data['bundle']}", subtitle, charts)


def _slice(kind: _Kind, follower: Follower, process: Executor, calls: list[tuple[int, int]]) -> None:
    """Measures one slice. What was published in it has been taken by the follower when it is over."""
    if kind.log is not None:
        process.submit(prepare, kind.log).result()
    calls.clear()
    cpu, others, begin = _follower_cpu(), BusyMeter(), time.perf_counter_ns()
    publishing = None if kind.log is None else process.submit(publish, kind.log, SLICE_S)
    time.sleep(SLICE_S)
    end = time.perf_counter_ns()
    kind.began.append(begin / 1e9)
    kind.follower_cpu_s += _follower_cpu() - cpu
    kind.busy.append(others.others())
    published = {} if publishing is None else publishing.result()
    kind.published |= published
    spans = np.array(calls[:], np.int64).reshape(-1, 2)  # of a copy: threads go on
    inside = spans[(spans[:, 0] >= begin) & (spans[:, 1] <= end)]
    kind.calls_ms.append((inside[:, 1] - inside[:, 0]) / 1e6)
    if kind.log == "follow":
        _drain(follower, max(published))


def _score(
    engine: Engine, batches: Sequence[Any], load: float, stop: threading.Event, calls: list[tuple[int, int]]
) -> None:
    """Scores batches in turn and notes when each call began and ended, in nanoseconds of `perf_counter_ns`.

    load: the share of the time that the thread scores; for the rest it waits, as one does that has no request.
    """
    for batch in cycle(batches):
        if stop.is_set():
            return
        began = time.perf_counter_ns()
        engine.score(batch)
        ended = time.perf_counter_ns()
        calls.append((began, ended))
        if load < 1:
            time.sleep((1 / load - 1) * (ended - began) / 1e9)


def _watch(engine: Engine, follower: Follower, stop: threading.Event, seen: list[tuple[float, int]]) -> None:
    """Notes when new calls got which version first, seconds of `perf_counter`."""
    version, last_look = engine.model_version, False
    while not last_look:
        last_look = stop.is_set()
        if follower.wait_for(version + 1, 0.1):
            at, version = time.perf_counter(), engine.model_version
            seen.append((at, version))


def _drain(follower: Follower, version: int) -> None:
    """Waits until a version is served and all rows are in the cache. Raises PepnetError when that takes too long."""
    if not follower.wait_for(version, _PATIENCE_S):
        raise PepnetError(f"follower: expected version {version} within {_PATIENCE_S:g} s, got {follower.stats()}")
    ends = time.monotonic() + _PATIENCE_S
    while follower.stats()["written_back"] < follower.stats()["applied"]:
        if time.monotonic() > ends:
            raise PepnetError(f"follower: expected all rows in the cache within {_PATIENCE_S:g} s, they are not")
        time.sleep(0.01)


def _follower_cpu() -> float:
    """Returns the CPU seconds of the follower's thread."""
    for thread in threading.enumerate():
        if thread.name == "pepnet-follow" and thread.ident is not None:
            return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    raise PepnetError("threads: expected the follower's, got none: it has ended")
