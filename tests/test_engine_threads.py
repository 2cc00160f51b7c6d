"""Many threads on one engine: every call gives what it gives alone, and the counters add up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pepnet_infer import ClosedError, Engine, PepnetError, SchemaError

pytestmark = pytest.mark.concurrency

Make = Callable[..., dict[str, Any]]
THREADS = 8


def test_calls_at_once_give_what_they_give_alone(toy_bundle: Path, toy_batch: Make) -> None:
    with Engine.load(toy_bundle, threads=2) as engine:
        batches = [toy_batch(rows, rows) for rows in (0, 1, 2, 7, 64, 300)]
        alone = [engine.score(batch) for batch in batches]
        user = {"user_id": 3, "watched": [1, 2, 45], "age": 20.0}
        items = {"video_id": list(range(50)), "tags": [[1, 2]] * 50, "duration": [3.0] * 50}
        ranked = engine.rank(user, items, 4)
        before, seen, start = engine.stats(), [], threading.Barrier(THREADS + 1)

        def work(seed: int) -> int:
            rng, rows = np.random.default_rng(seed), 0
            start.wait()
            for _ in range(40):
                pick = int(rng.integers(-2, len(batches)))
                if pick == -1:
                    assert np.array_equal(engine.rank(user, items, 4).values, ranked.values)
                    rows += 50
                elif pick == -2:
                    with pytest.raises(SchemaError, match="expected it in the batch"):
                        engine.score({"user_id": [1]})
                else:
                    scores = engine.score(batches[pick])
                    assert np.array_equal(scores.values, alone[pick].values)
                    assert scores.unknown == alone[pick].unknown
                    rows += len(scores)
            return rows

        with ThreadPoolExecutor(THREADS) as pool:
            futures = [pool.submit(work, seed) for seed in range(THREADS)]
            start.wait()
            while not all(future.done() for future in futures):
                seen.append(engine.stats())
            rows = sum(future.result() for future in futures)
        after = engine.stats()
    assert after["rows"] - before["rows"] == rows
    calls = after["batches"] + after["errors"] - before["batches"] - before["errors"]
    assert calls == 40 * THREADS
    assert after["errors"] > before["errors"]
    assert seen
    assert all(a["rows"] <= b["rows"] and a["batches"] <= b["batches"] for a, b in pairwise(seen))


def test_closing_while_others_score_lets_calls_under_way_finish(toy_bundle: Path, toy_batch: Make) -> None:
    engine = Engine.load(toy_bundle, threads=1)
    batch = toy_batch(200)
    expected = engine.score(batch).values
    started = threading.Barrier(THREADS + 1)

    def work() -> int:
        started.wait()
        for calls in range(100_000):
            try:
                scores = engine.score(batch).values
            except PepnetError as error:
                if isinstance(error, ClosedError):
                    return calls
                raise
            assert np.array_equal(scores, expected)
        raise AssertionError("the engine never closed")

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(work) for _ in range(THREADS)]
        started.wait()
        while engine.stats()["batches"] < 20:
            pass
        engine.close()
        assert sum(future.result() for future in futures) >= 19
