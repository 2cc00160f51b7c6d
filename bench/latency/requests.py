"""Whole requests: ids in, scores out, beside the dense part alone; what encoding, lookups and misses add to the
network, and what a request saves by sharing its user's side."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from pepnet_infer.backends.protocol import PRECISIONS
from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.harness.measure import Figures, Say, measure
from pepnet_infer.bench.harness.workloads import Request, Traffic
from pepnet_infer.bench.latency.peers import load_engine
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.encode.features import Features
from pepnet_infer.engine import Engine
from pepnet_infer.rows.assemble import Assembler
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.inputs import Inputs

Values = npt.NDArray[np.float32]
STAGES = ("encode", "lookup", "dense")
#: Shares of a request's ids whose rows the cache holds, beside a cache that holds all it can.
HIT_RATES = (0.9, 0.5)
#: Rows of all cases together, and how many cases there are at least and at most: small ones are bound by Python.
_ROWS, _FEWEST, _MOST = 65536, 16, 256


@dataclass(frozen=True)
class Case:
    """What one round scores: a request, dense inputs of as many rows, and what is known of the request."""

    request: Request
    inputs: Inputs
    features: Features  # the request's rows, encoded
    found: Inputs  # what these look up, without a cache
    keys: Keys  # each once
    scores: Values  # by an engine without a cache


def score(engine: Engine, case: Case) -> Values:
    """Scores a request as a batch of rows."""
    return engine.score(case.request.rows).values


def rank(engine: Engine, case: Case) -> Values:
    """Scores a request, whose user is given once."""
    request = case.request
    return engine.rank(request.user, request.items, request.domain, request.context).values


def score_dense(engine: Engine, case: Case) -> Values:
    """Scores inputs that are embedded already."""
    return engine.score_dense(case.inputs.general, case.inputs.domain, case.inputs.prior)


def end_to_end(bundle: Bundle, size: int, threads: int, plan: Plan, seed: int, say: Say = lambda _: None) -> Figures:
    """Measures requests of `size` candidates in every precision of the backend that "auto" takes.

    In fp32 also `score_dense`, the look-up alone, and `score` without a cache and at `HIT_RATES`. There all scores of
    requests, and all rows, are compared, bit for bit, with those without a cache. Stage times and hit rates are means
    over all calls of a contender, warm ones included, from its engine's counters. Raises RuntimeError when a contender
    fails or scores something else.
    """
    say(f"end to end, batch {size}: drawing requests")
    rng, traffic = np.random.default_rng(seed), Traffic(bundle, seed)
    with ExitStack() as stack:
        tables = stack.enter_context(closing(MmapStore(bundle.table_paths, bundle.schema.table_by_name)))
        plain = stack.enter_context(Engine.load(bundle.path, threads=threads, check="sizes", cache=None))
        backend = str(plain.stats()["backend"]["backend"])
        cache = CacheConfig(capacity=(64 << 20) + 4 * sum(path.stat().st_size for path in bundle.table_paths.values()))
        kinds = PRECISIONS[backend]
        engines = {p: stack.enter_context(load_engine(bundle, backend, p, threads, cache=cache)) for p in kinds}
        cached, assembler = engines["fp32"], Assembler(bundle.schema, tables)
        in_cache = Assembler(bundle.schema, cached.cache or tables)
        rates = {f"score fp32, hit rate {rate:g}": rate for rate in HIT_RATES}
        contenders: dict[str, tuple[Engine, Callable[[Engine, Case], Values | Inputs]]] = {
            **{f"score {precision}": (engine, score) for precision, engine in engines.items()},
            **{f"rank {precision}": (engine, rank) for precision, engine in engines.items()},
            "score_dense fp32": (cached, score_dense),
            "lookup fp32": (cached, lambda _, case: in_cache.inputs(case.features)),
            "score fp32, no cache": (plain, score),
            **dict.fromkeys(rates, (cached, score)),
        }
        cases = [
            _case(plain, assembler, traffic.request(size), normal_inputs(bundle.config.inputs, size, seed + i))
            for i in range(max(_FEWEST, min(_MOST, _ROWS // size)))
        ]
        spent = {name: np.zeros(len(STAGES) + 3) for name in contenders}
        last: dict[Engine, npt.NDArray[np.float64]] = {}

        def prepare(name: str, case: Case) -> Case:
            """Lets the cache forget what is to be a miss: the call fetches it again."""
            if name in rates and cached.cache is not None:
                lost = case.keys[rng.random(len(case.keys)) >= rates[name]]
                for cache in cached.cache.caches.values():
                    cache.core.forget(lost)
            return case

        def check(name: str, index: int, scores: Values | Inputs) -> None:
            (engine, call), wanted = contenders[name], cases[index].scores
            now = _counters(engine)
            spent[name] += now - last[engine]  # since they were last read this contender alone has used the engine
            last[engine] = now
            if isinstance(scores, Inputs):
                if not all(map(np.array_equal, scores.matrices, cases[index].found.matrices)):
                    raise ValueError("expected the rows that the tables hold, got others")
                return
            if scores.shape != wanted.shape or not np.isfinite(scores).all():
                raise ValueError(f"expected finite scores {list(wanted.shape)}, got {list(scores.shape)} of them")
            exact = engine in (plain, cached) and call is not score_dense
            if exact and not np.array_equal(scores, wanted):
                raise ValueError("expected the scores that an engine without a cache gives, got others")

        calls = {name: partial(call, engine) for name, (engine, call) in contenders.items()}
        for contender in calls.values():
            contender(cases[-1])  # what is done at the first call only is no part of any figure
        last |= {engine: _counters(engine) for engine in (plain, *engines.values())}
        figures = measure(f"end to end, batch {size}", calls, cases, plan, say, prepare=prepare, check=check)
    for name, row in figures.rows.items():
        *stages, batches, keys, misses = spent[name].tolist()
        row |= {"batch": size, "backend": backend, "hit_rate": 1 - misses / keys if keys else None}
        if batches:
            row["stages_ms"] = {stage: us / 1e3 / batches for stage, us in zip(STAGES, stages, strict=True)}
        if name.startswith("rank"):
            row["over_score"] = row["speedups"][name.replace("rank", "score")]
    return figures


def _case(plain: Engine, tables: Assembler, request: Request, inputs: Inputs) -> Case:
    features = plain.encode(request.rows)
    keys = np.concatenate([*features.ids.values(), *(bag.keys for bag in features.bags.values())])
    found, scores = tables.inputs(features), plain.score(request.rows).values
    return Case(request, inputs, features, found, np.unique(keys), scores)


def _counters(engine: Engine) -> npt.NDArray[np.float64]:
    """Microseconds by stage, batches, keys asked of the cache and those that it lacked."""
    stats = engine.stats()
    asked = (0, 0) if stats["cache"] is None else (stats["cache"]["total"]["keys"], stats["cache"]["total"]["misses"])
    return np.array([*(stats["time_us"][stage] for stage in STAGES), stats["batches"], *asked], np.float64)
