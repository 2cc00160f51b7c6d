"""End to end through the embedding cache: what `score`, and of it ids → rows in the inputs, cost at given hit rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.backends.protocol import PRECISIONS
from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.harness.measure import Figures, Row, Say, measure
from pepnet_infer.bench.harness.workloads import Traffic, batches, dense_rows, rows_beyond_caches, slice_columns
from pepnet_infer.bench.latency.new_ids import Mixer, NewIds, NewIdStore
from pepnet_infer.bench.latency.peers import load_engine
from pepnet_infer.encode.features import Bag, Features
from pepnet_infer.engine import Engine
from pepnet_infer.rows.assemble import Assembler
from pepnet_infer.rows.cache.budget import bytes_for
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.rows.cache.open_bundle_rows import cached_rows
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.inputs import Inputs

if TYPE_CHECKING:
    from pepnet_infer.bench.harness.workloads import Column
    from pepnet_infer.bundle.bundle import Bundle

Written = Inputs | npt.NDArray[np.float32]
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


class Scene:
    """A bundle's engines, with the cache full: all its rows, and beside them ids that nobody asks for again."""

    def __init__(self, bundle: Bundle, threads: int, seed: int) -> None:
        self.bundle, self.seed = bundle, seed
        self.store = MmapStore(bundle.table_paths, bundle.schema.table_by_name)
        self.new = NewIds(self.store)
        self.mixer = Mixer.of(bundle, self.store, self.new, seed)
        by_width: dict[int, int] = {}
        for shape in self.store.tables.values():
            by_width[shape.dim] = by_width.get(shape.dim, 0) + shape.rows
        # What an engine's cache takes before the bundle's own tables, when its capacity is no bound.
        size = sum(bytes_for(rows, dim, "float32", "gset") for dim, rows in by_width.items())
        self.cache = cached_rows(bundle, CacheConfig(capacity=size), NewIdStore(self.store, self.new))
        self.cached = Engine.load(bundle.path, threads=threads, cache=None, store=self.cache, check="sizes")
        self.plain = Engine.load(bundle.path, threads=threads, cache=None, store=self.store, check="sizes")
        self._fill()
        about = self.plain.stats()["backend"]
        backend, own = str(about["backend"]), str(about["precision"])
        self.dense = {
            precision: self.plain
            if precision == own
            else load_engine(bundle, backend, precision, threads, cache=None, store=self.store)
            for precision in PRECISIONS[backend]
        }
        self.wanted = Assembler(bundle.schema, self.store)
        self.calls: dict[str, Callable[[Case], Written]] = {}
        self.about: dict[str, Row] = {}  # of each call; the hit rate is the one asked for, None without a cache
        for call, kind, make in (("score", own, self._score), ("lookup", "float32", self._lookup)):
            for rate in (*HIT_RATES, None):
                name = f"{call} " + ("without cache" if rate is None else f"at hit rate {rate:g}")
                self.calls[name] = make(rate)
                self.about[name] = {"call": call, "precision": kind, "asked_hit_rate": rate}
        for precision, engine in self.dense.items():
            self.calls[f"dense {precision}"] = _dense(engine)
            self.about[f"dense {precision}"] = {"call": "dense", "precision": precision, "asked_hit_rate": None}

    def _fill(self) -> None:
        """Leaves no free slot, so that every miss evicts: twice as many new ids as there are places."""
        for dim, cache in self.cache.caches.items():
            table = max((t for t in self.cache.tables.values() if t.dim == dim), key=lambda t: t.rows)
            if table.rows:
                self.cache.prefetch(table.name, self.new.take(2 * (cache.capacity_rows - cache.stats()["rows"])))

    def _score(self, rate: float | None) -> Callable[[Case], Written]:
        engine = self.plain if rate is None else self.cached
        return lambda case: engine.score(case.columns).values

    def _lookup(self, rate: float | None) -> Callable[[Case], Written]:
        assembler = Assembler(self.bundle.schema, self.store if rate is None else self.cache)
        return lambda case: assembler.inputs(case.features)

    def cases(self, size: int) -> list[Case]:
        """Returns batches whose ids are uniform over the tables."""
        widths, count = self.bundle.config.inputs, max(16, min(_MOST_CASES, _ROWS // size))
        inputs = cycle(batches(dense_rows(widths, rows_beyond_caches(widths, size), self.seed), size))
        drawn = Traffic(self.bundle, self.seed, zipf=0.0).columns(count * size)
        parts = [slice_columns(drawn, at, at + size) for at in range(0, count * size, size)]
        return [Case(columns, self.plain.encode(columns), next(inputs)) for columns in parts]

    def fresh(self, name: str, case: Case) -> Case:
        """Returns the case with new ids where the call is to miss."""
        call, rate = self.about[name]["call"], self.about[name]["asked_hit_rate"]
        if call == "dense":
            return case
        share = self.mixer.share(self.bundle.schema, case.columns, case.features, 0.0 if rate is None else 1.0 - rate)
        columns = self.mixer.mixed(case.columns, share)
        return replace(case, columns=columns) if call == "score" else replace(case, features=self.plain.encode(columns))

    def expected(self, features: Features) -> Inputs:
        """Returns the inputs of `features` by the store alone: what any lookup of them must write, bit for bit."""
        ids = {name: self.new.stand_ins(keys) for name, keys in features.ids.items()}
        bags = {name: Bag(self.new.stand_ins(bag.keys), bag.offsets) for name, bag in features.bags.items()}
        return self.wanted.inputs(replace(features, ids=ids, bags=bags))

    def counts(self) -> npt.NDArray[np.int64]:
        """Returns keys, misses and distinct ids asked of the store so far. Ids known not to exist count as hits."""
        stats = self.cache.stats()
        return np.array([stats["total"]["keys"], stats["total"]["misses"], stats["store"]["keys"]])

    def describe(self) -> dict[str, Any]:
        """Returns what was before the store, and how large, as JSON values."""
        cache, tables = self.cache.stats(), self.store.tables.values()
        return {
            "store": STORE,
            "policy": cache["policy"],
            "ids": "uniform",
            "cache_rows": cache["rows"],
            "cache_bytes": cache["memory_bytes"],
            "table_rows": sum(shape.rows for shape in tables),
            "table_bytes": sum(4 * shape.rows * shape.dim for shape in tables),
            "asked": {"over_dense": ASKED, "hit_rate": 1.0, "batch": ASKED_BATCH},
        }

    def close(self) -> None:
        """Closes all engines."""
        for engine in (self.cached, *self.dense.values()):
            engine.close()
        self.store.close()


def hit_rates(
    bundle: Bundle, sizes: Sequence[int], threads: int, plan: Plan, seed: int, say: Say = lambda _: None
) -> tuple[dict[str, Any], dict[int, Figures]]:
    """Measures `score` and the lookup alone at `HIT_RATES` and without a cache, and the dense part in every precision.

    Returns what was before the store, and figures by batch size. The hit rate of a row is what the cache's statistics
    say of its calls, warm ones included.
    """
    say("hit rates: filling the cache")
    scene = Scene(bundle, threads, seed)
    try:
        return scene.describe(), {size: _measure(scene, size, plan, say) for size in sizes}
    finally:
        scene.close()


def _dense(engine: Engine) -> Callable[[Case], Written]:
    return lambda case: engine.score_dense(case.inputs.general, case.inputs.domain, case.inputs.prior)


def _measure(scene: Scene, size: int, plan: Plan, say: Say) -> Figures:
    """Raises RuntimeError when a contender fails or what it wrote is wrong."""
    say(f"hit rates, batch {size}: drawing requests")
    cases = scene.cases(size)
    counted = {name: np.zeros(3, np.int64) for name in scene.calls}
    calls = dict.fromkeys(scene.calls, 0)
    given, last = cases[0], scene.counts()

    def prepare(name: str, case: Case) -> Case:
        nonlocal given
        given = scene.fresh(name, case)
        calls[name] += 1
        return given

    def check(name: str, _: int, output: Written) -> None:
        nonlocal last
        now = scene.counts()
        counted[name] += now - last
        last = now
        if not isinstance(output, Inputs):
            if len(output) != size or not np.isfinite(output).all():
                raise ValueError(f"expected {size} rows of finite scores, got {len(output)}")
            return
        wanted = scene.expected(given.features)
        for part in ("general", "domain", "prior"):
            if not np.array_equal(getattr(output, part), getattr(wanted, part)):
                raise ValueError(f"{part}: expected the rows that the store has, got others")

    for name, call in scene.calls.items():
        call(prepare(name, cases[-1]))  # what is done at the first call only is no part of any figure
    last, calls = scene.counts(), dict.fromkeys(scene.calls, 0)
    what = f"hit rates, batch {size}"
    figures = measure(what, scene.calls, cases, plan, say, about=scene.about, prepare=prepare, check=check)
    dense = {name: row for name, row in figures.rows.items() if row["call"] == "dense"}
    fastest = min(dense, key=lambda name: float(dense[name]["p50_ms"]))
    for name, row in figures.rows.items():
        keys, misses, asked = counted[name].tolist()
        over = row["speedups"].get(fastest, {"ratio": 1.0, "low": 1.0, "high": 1.0})
        judged = row["call"] == "lookup" and row["asked_hit_rate"] == 1.0 and size == ASKED_BATCH
        row |= {"batch": size, "hit_rate": 1.0 - misses / keys if keys else None}
        row |= {"ids_a_call": keys / calls[name], "fetched_a_call": asked / calls[name] if keys else None}
        row["fastest_dense"] = dense[fastest]["precision"]
        # Of its time to that of the fastest dense part; the interval is that of the reciprocal, turned round.
        row |= {"over_dense": 1 / over["ratio"], "low": 1 / over["high"], "high": 1 / over["low"]}
        row["enough"] = ("yes" if row["over_dense"] <= ASKED else "no") if judged else ""
    return figures
