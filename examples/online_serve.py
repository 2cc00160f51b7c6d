"""The process that serves in `online.py`: seven engines that follow what the trainer publishes. Imports no torch."""

from __future__ import annotations

import contextlib
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pepnet_infer import CacheConfig, Engine
from pepnet_infer.rows.cache.config import Policy
from pepnet_infer.stores import MmapStore
from pepnet_infer.sync import DirectoryLog, FollowConfig
from pepnet_infer.sync.follower import Follower

SERVED_AT_ONCE = 128  # exposures of one call
PATIENCE_S = 120.0
FIRST_VERSION = 1  # of the first day's bundle; pass n, from 1, makes version FIRST_VERSION + n


#: Engine → the log it follows, and the policy that decides what it keeps where memory is short.
VARIANTS: dict[str, tuple[str | None, Policy | None]] = {
    "frozen": (None, None),
    "dense only": ("dense", None),
    "rows only": ("rows", None),
    "both": ("both", None),
    "both, gset": ("both", "gset"),
    "both, lru": ("both", "lru"),
    "both, lfu": ("both", "lfu"),
}


def serve(folder: Path, plan: dict[str, Any], traffic: pa.Table, trainer: Connection[Any, Any]) -> None:
    """Scores pass after pass of the traffic, each when all engines have the version before it.

    folder: has the first day's bundle and the logs. trainer: is told when a pass was scored, for it may be learnt from
    then; in the end it gets all scores [V, N, T] and the engines' figures by name.
    """
    with contextlib.ExitStack() as stack:
        running = {name: _start(stack, folder, name, plan) for name in VARIANTS}
        scores = np.empty((len(VARIANTS), traffic.num_rows, len(running["frozen"][0].tasks)), np.float32)
        for number, (begin, end, at) in enumerate(plan["passes"]):
            for place, (name, (engine, follower)) in enumerate(running.items()):
                version = FIRST_VERSION + (0 if follower is None else number)
                if follower is not None and not follower.wait_for(version, PATIENCE_S):
                    raise SystemExit(f"{name}: expected version {version}, got {follower.stats()}")
                with engine.hold():  # the version that is there is down in the cache, and stays
                    _set_time(engine, at)
                    for row in range(begin, end, SERVED_AT_ONCE):
                        part = engine.score(traffic.slice(row, min(SERVED_AT_ONCE, end - row)))
                        if part.model_version != version:
                            raise SystemExit(f"expected scores of version {version}, got those of {part.model_version}")
                        scores[place, row : row + len(part)] = part.values
            trainer.send(number)
        trainer.send((scores, {name: engine.stats() for name, (engine, _) in running.items()}))


def _start(
    stack: contextlib.ExitStack, folder: Path, name: str, plan: dict[str, Any]
) -> tuple[Engine, Follower | None]:
    log, policy = VARIANTS[name]
    cache, bounded = CacheConfig(), {}
    if policy is not None:
        cache = CacheConfig(policy, plan["capacity"], negative_ttl=None, warm=False, **plan["gset"])
        bounded = {"rows": "cache", "insert": "all"}
    options = {"spin": False}  # seven engines, one at work at a time
    engine = Engine.load(folder / "bundle", backend="native", threads=1, cache=cache, options=options)
    stack.enter_context(engine)
    if policy is not None and engine.cache is not None:
        _set_time(engine, plan["passes"][0][2])
        store = MmapStore(engine.bundle.table_paths, engine.schema.table_by_name)
        engine.cache.warm({name: (file.keys, file.scores) for name, file in store.files.items()})
    if log is None:
        return engine, None
    # The guard keeps rows by the clock, and what it refuses would depend on that.
    config = FollowConfig(name=name.replace(", ", "-").replace(" ", "-"), guard=None, keep=0, **bounded)
    return engine, engine.follow(DirectoryLog(folder / log, create=True), config)


def _set_time(engine: Engine, at: float) -> None:
    """Makes it `at` in the log for the cache: what ids score decays with time."""
    if engine.cache is not None:
        for cache in engine.cache.caches.values():
            cache.core.set_time(at)
