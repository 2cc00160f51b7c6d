"""End to end through the embedding cache: what `score`, and of it ids → rows in the inputs, cost at given hit rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.backends.protocol import PRECISIONS
from pepnet_infer.bench.latency import Plan, interleave
from pepnet_infer.bench.latency_misses import Mixer, NewIds, NewIdStore
from pepnet_infer.bench.machine import BusyMeter
from pepnet_infer.bench.summary import describe_times, speedups
from pepnet_infer.bench.workloads import Traffic, batches, dense_rows, rows_beyond_caches, slice_columns
from pepnet_infer.encode.features import Bag, Features
from pepnet_infer.engine import Engine
from pepnet_infer.rows.assemble import Assembler
from pepnet_infer.rows.cache.budget import bytes_for
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.rows.cache.over_bundle import cached_rows
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.inputs import Inputs

if TYPE_CHECKING:
    from pepnet_infer.bench.workloads import Column
    from pepnet_infer.bundle.bundle import Bundle

Say = Callable[[str], None]
HIT_RATES = (1.0, 0.9, 0.5)
#: What ids → rows in the inputs may cost beside the dense part's fastest time, and where that is asked: at this batch
#: size, on preset kuaishou, when all ids hit.
ASKED, ASKED_BATCH = 0.25, 1024
#: Rows that requests rotate through, and the most requests: small ones are bound by Python, not by memory.
_ROWS, _MOST_CASES = 65_536, 4096
STORE = "the bundle's tables, mapped; an id that is to miss is one never asked for before, with the row of another"


@dataclass(frozen=True)
class Case:
    """What one call gets: a batch of columns, the same encoded, or inputs that are embedded already."""

    columns: dict[str, Column]
    features: Features
    inputs: Inputs


@dataclass(frozen=True)
class Contender:
    """One call: `hit_rate` is the one asked for, None without a cache. Dense ones have a precision."""

    call: str  # score, lookup or dense
    hit_rate: float | None
    precision: str
    run: Callable[[Case], Inputs | npt.NDArray[np.float32]]

    @property
    def name(self) -> str:
        """What it is called in messages."""
        if self.call == "dense":
            return f"dense {self.precision}"
        return f"{self.call} " + ("without cache" if self.hit_rate is None else f"at hit rate {self.hit_rate:g}")


@dataclass
class _Counted:
    """What the engine's own statistics gained in one contender's turns."""

    keys: int = 0
    misses: int = 0
    asked: int = 0  # distinct ids, of the store


class _Scene:
    """A bundle's engines, with the cache full: all its rows, and beside them ids that nobody asks for again."""

    def __init__(self, bundle: Bundle, threads: int, seed: int) -> None:
        self.bundle = bundle
        specs = bundle.schema.table_by_name
        self.store = MmapStore(bundle.table_paths, specs)
        self.new = NewIds(self.store)
        self.mixer = Mixer.of(bundle, self.store, self.new, seed)
        by_width: dict[int, int] = {}
        for shape in self.store.tables.values():
            by_width[shape.dim] = by_width.get(shape.dim, 0) + shape.rows
        # What an engine's cache takes before the bundle's own tables, when its capacity is no bound.
        size = sum(bytes_for(rows, dim, "float32", "gset") for dim, rows in by_width.items())
        config = CacheConfig(capacity=size)
        path = bundle.path
        behind = NewIdStore(self.store, self.new)
        self.cache = cached_rows(bundle, config, behind)
        self.cached = Engine.load(path, threads=threads, cache=None, store=self.cache, check="sizes")
        self.plain = Engine.load(path, threads=threads, cache=None, store=self.store, check="sizes")
        self._fill()
        self.lookup_cached = Assembler(bundle.schema, self.cache)
        self.lookup_plain = Assembler(bundle.schema, self.store)
        about = self.plain.stats()["backend"]
        backend = str(about["backend"])
        self.precision = str(about["precision"])
        self.dense = {self.precision: self.plain}
        for precision in PRECISIONS[backend]:
            if precision not in self.dense:
                options: dict[str, object] | None = {"unchecked": True} if precision == "int8" else None
                self.dense[precision] = Engine.load(
                    path,
                    backend=backend,
                    precision=precision,
                    threads=threads,
                    check="sizes",
                    cache=None,
                    store=self.store,
                    options=options,
                )

    def _fill(self) -> None:
        """Leaves no free slot, so that every miss evicts: twice as many new ids as there are places."""
        for dim, cache in self.cache.caches.items():
            table = max((t for t in self.cache.tables.values() if t.dim == dim), key=lambda t: t.rows)
            if table.rows:
                self.cache.prefetch(table.name, self.new.take(2 * (cache.capacity_rows - cache.stats()["rows"])))

    def contenders(self) -> list[Contender]:
        """Returns every call that is measured."""
        rates = (*HIT_RATES, None)
        return [
            *(Contender("score", rate, self.precision, self._score(rate)) for rate in rates),
            *(Contender("lookup", rate, "float32", self._lookup(rate)) for rate in rates),
            *(Contender("dense", None, precision, _dense(engine)) for precision, engine in self.dense.items()),
        ]

    def _score(self, rate: float | None) -> Callable[[Case], npt.NDArray[np.float32]]:
        engine = self.plain if rate is None else self.cached
        return lambda case: engine.score(case.columns).values

    def _lookup(self, rate: float | None) -> Callable[[Case], Inputs]:
        assembler = self.lookup_plain if rate is None else self.lookup_cached
        return lambda case: assembler.inputs(case.features)

    def fresh(self, contender: Contender, case: Case) -> Case:
        """Returns the case with new ids where the contender is to miss."""
        if contender.call == "dense":
            return case
        misses = 0.0 if contender.hit_rate is None else 1.0 - contender.hit_rate
        share = self.mixer.share(self.bundle.schema, case.columns, case.features, misses)
        columns = self.mixer.mixed(case.columns, share)
        if contender.call == "score":
            return replace(case, columns=columns)
        return replace(case, features=self.plain.encode(columns))

    def expected(self, features: Features) -> Inputs:
        """Returns the inputs of `features` by the store alone: what any lookup of them must write, bit for bit."""
        ids = {name: self.new.stand_ins(keys) for name, keys in features.ids.items()}
        bags = {name: Bag(self.new.stand_ins(bag.keys), bag.offsets) for name, bag in features.bags.items()}
        return self.lookup_plain.inputs(replace(features, ids=ids, bags=bags))

    def counts(self) -> _Counted:
        """Returns what the cache's statistics say now. Ids known not to exist count as hits: nobody is asked."""
        stats = self.cache.stats()
        return _Counted(stats["total"]["keys"], stats["total"]["misses"], stats["store"]["keys"])

    def close(self) -> None:
        """Closes all engines."""
        for engine in (self.cached, *self.dense.values()):
            engine.close()
        self.store.close()


def hit_rates(
    bundle: Bundle, batch_sizes: Sequence[int], threads: int, plan: Plan, seed: int, say: Say = lambda _: None
) -> tuple[dict[str, Any], dict[int, float]]:
    """Measures `score` and the lookup alone at `HIT_RATES` and without a cache, and the dense part in every precision.

    All are interleaved, by batch size, on fresh requests whose known ids are uniform over the tables. Returns what
    `bench latency` reports of it, and by batch size the share of the CPUs that others used. The hit rate of a row is
    what the engine's statistics say of its calls, warm ones included.
    """
    say("hit rates: filling the cache")
    scene = _Scene(bundle, threads, seed)
    rows: list[dict[str, Any]] = []
    busy: dict[int, float] = {}
    try:
        traffic = Traffic(bundle, seed, zipf=0.0)
        for size in batch_sizes:
            say(f"hit rates, batch {size}: drawing requests")
            rotating = dense_rows(bundle.config.inputs, rows_beyond_caches(bundle.config.inputs, size), seed)
            inputs = cycle(batches(rotating, size))
            count = max(16, min(_MOST_CASES, _ROWS // size))
            drawn = traffic.columns(count * size)
            parts = [slice_columns(drawn, at, at + size) for at in range(0, count * size, size)]
            cases = [Case(columns, scene.plain.encode(columns), next(inputs)) for columns in parts]
            meter = BusyMeter()
            rows += _measure(scene, cases, size, plan, say)
            busy[size] = meter.others()
        cache = scene.cache.stats()
        tables = scene.store.tables.values()
        about = {
            "store": STORE,
            "policy": cache["policy"],
            "ids": "uniform",
            "cache_rows": cache["rows"],
            "cache_bytes": cache["memory_bytes"],
            "table_rows": sum(shape.rows for shape in tables),
            "table_bytes": sum(4 * shape.rows * shape.dim for shape in tables),
            "asked": {"over_dense": ASKED, "hit_rate": 1.0, "batch": ASKED_BATCH},
        }
    finally:
        scene.close()
    return {**about, "rows": rows}, busy


def _dense(engine: Engine) -> Callable[[Case], npt.NDArray[np.float32]]:
    def run(case: Case) -> npt.NDArray[np.float32]:
        return engine.score_dense(case.inputs.general, case.inputs.domain, case.inputs.prior)

    return run


def _measure(scene: _Scene, cases: Sequence[Case], size: int, plan: Plan, say: Say) -> list[dict[str, Any]]:
    """Returns a row per contender. Raises RuntimeError when one fails or what it wrote is wrong."""
    contenders = {contender.name: contender for contender in scene.contenders()}
    counted = {name: _Counted() for name in contenders}
    calls = dict.fromkeys(contenders, 0)
    given = cases[0]
    last = scene.counts()

    def prepare(name: str, case: Case) -> Case:
        nonlocal given
        given = scene.fresh(contenders[name], case)
        calls[name] += 1
        return given

    def check(name: str, _: int, output: Inputs | npt.NDArray[np.float32]) -> None:
        nonlocal last
        now, sums = scene.counts(), counted[name]
        sums.keys += now.keys - last.keys
        sums.misses += now.misses - last.misses
        sums.asked += now.asked - last.asked
        last = now
        if not isinstance(output, Inputs):
            if len(output) != size or not np.isfinite(output).all():
                raise ValueError(f"expected {size} rows of finite scores, got {len(output)}")
            return
        wanted = scene.expected(given.features)
        for part in ("general", "domain", "prior"):
            if not np.array_equal(getattr(output, part), getattr(wanted, part)):
                raise ValueError(f"{part}: expected the rows that the store has, got others")

    for name, contender in contenders.items():
        contender.run(prepare(name, cases[-1]))  # what is done at the first call only is no part of any figure
    last, calls = scene.counts(), dict.fromkeys(contenders, 0)
    measured = interleave(
        {name: contender.run for name, contender in contenders.items()},
        cases,
        plan,
        prepare=prepare,
        check=check,
        on_round=lambda r: say(f"hit rates, batch {size}: measuring {len(contenders)} calls; round {r + 1}"),
    )
    for name, why in measured.failed.items():
        raise RuntimeError(f"hit rates: {name} failed at batch {size}: {why}")
    millis = {name: timings.millis for name, timings in measured.timings.items()}
    ratios = speedups(millis)
    fastest = min((n for n, c in contenders.items() if c.call == "dense"), key=lambda n: float(np.median(millis[n])))
    rows = []
    for name, contender in contenders.items():
        over = None if name == fastest else ratios[name][fastest]
        asked = contender.call == "lookup" and contender.hit_rate == 1.0 and size == ASKED_BATCH
        sums = counted[name]
        rows.append(
            {
                "call": contender.call,
                "batch": size,
                "precision": contender.precision,
                "asked_hit_rate": contender.hit_rate,
                "hit_rate": 1.0 - sums.misses / sums.keys if sums.keys else None,
                "ids_a_call": sums.keys / calls[name],
                "fetched_a_call": sums.asked / calls[name],
                **describe_times(millis[name]),
                "unsettled": measured.timings[name].unsettled,
                "fastest_dense": contenders[fastest].precision,
                # Of its time to that of the fastest dense part; the interval is that of the reciprocal, turned round.
                "over_dense": 1.0 if over is None else 1 / over["ratio"],
                "over_dense_low": 1.0 if over is None else 1 / over["high"],
                "over_dense_high": 1.0 if over is None else 1 / over["low"],
                "enough": bool(over is not None and 1 / over["ratio"] <= ASKED) if asked else None,
            }
        )
    return rows
