"""The native backend among threads, engines and processes: always the bits that one call alone gives."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from children import PATIENCE_S, well_in_a_child

from pepnet_infer import Engine
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.schema.inputs import Inputs

pytestmark = pytest.mark.concurrency

ROWS = (0, 1, 2, 7, 33, 300)
CALLERS = 6


def inputs(engine: Engine, rows: int) -> Inputs:
    return normal_inputs(engine.bundle.config.inputs, rows, seed=rows)


def score(engine: Engine, rows: int) -> bytes:
    given = inputs(engine, rows)
    return engine.score_dense(given.general, given.domain, given.prior).tobytes()


@pytest.mark.parametrize("spin", [True, False])
def test_two_engines_and_many_threads(toy_bundle: Path, spin: bool) -> None:
    options = {"spin": spin}
    with (
        Engine.load(toy_bundle, backend="native", threads=2, check="sizes", options=options) as one,
        Engine.load(toy_bundle, backend="native", precision="bf16", threads=4, check="sizes", options=options) as other,
    ):
        alone = {(engine, rows): score(engine, rows) for engine in (one, other) for rows in ROWS}
        assert alone[one, 300] != alone[other, 300]
        start = threading.Barrier(CALLERS)

        def work(seed: int) -> int:
            rng = np.random.default_rng(seed)
            start.wait()
            for _ in range(60):
                engine, rows = (one, other)[rng.integers(2)], ROWS[rng.integers(len(ROWS))]
                assert score(engine, rows) == alone[engine, rows]
            return 60

        with ThreadPoolExecutor(CALLERS) as pool:
            assert sum(pool.map(work, range(CALLERS))) == 60 * CALLERS
        calls = one.stats()["batches"] + other.stats()["batches"]
        assert calls == 60 * CALLERS + 2 * len(ROWS)


def test_the_number_of_threads_changes_no_bit(toy_bundle: Path) -> None:
    for precision in ("fp32", "bf16", "int8"):
        found = set()
        for threads in (1, 2, 3, 8):
            options = {"unchecked": True}
            with Engine.load(
                toy_bundle, backend="native", precision=precision, threads=threads, check="sizes", options=options
            ) as engine:
                whole = score(engine, 300)
                given = inputs(engine, 300)
                for step in (1, 7, 64):
                    parts = [
                        engine.score_dense(*(m[at : at + step] for m in (given.general, given.domain, given.prior)))
                        for at in range(0, 300, step)
                    ]
                    assert np.concatenate(parts).tobytes() == whole
                found.add(whole)
        assert len(found) == 1


def test_engines_do_not_multiply_threads(toy_bundle: Path) -> None:
    code = f"""
import os
from pathlib import Path
from pepnet_infer import Engine
from pepnet_infer.bundle.golden_rows import normal_inputs
def threads():
    return len(list(Path("/proc/self/task").iterdir()))
engines, counts = [], []
for _ in range(5):
    engine = Engine.load({str(toy_bundle)!r}, backend="native", threads=2, check="sizes")
    given = normal_inputs(engine.bundle.config.inputs, 2000, 0)
    engine.score_dense(given.general, given.domain, given.prior)
    engines.append(engine)
    counts.append(threads())
print(counts)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts == [counts[0]] * 5


@pytest.mark.parametrize("busy", [False, True])
def test_a_forked_child_scores_on(toy_bundle: Path, busy: bool) -> None:
    with Engine.load(toy_bundle, backend="native", threads=3, check="sizes") as engine:
        expected = {rows: score(engine, rows) for rows in ROWS}
        stop = threading.Event()

        def keep_busy() -> None:
            while not stop.is_set():
                score(engine, 300)

        def work() -> None:
            for rows in ROWS:
                assert score(engine, rows) == expected[rows]
            with Engine.load(toy_bundle, backend="native", threads=2, check="sizes") as fresh:
                assert score(fresh, 300) == expected[300]

        def work_and_fork() -> None:
            work()
            well_in_a_child(work)

        callers = [threading.Thread(target=keep_busy) for _ in range(2 if busy else 0)]
        for caller in callers:
            caller.start()
        try:
            for _ in range(5):  # among them forks while workers work
                well_in_a_child(work_and_fork)
                assert score(engine, 300) == expected[300]
        finally:
            stop.set()
            for caller in callers:
                caller.join()


_engine: Engine | None = None


def _in_worker(rows: int) -> bytes:
    assert _engine is not None
    return score(_engine, rows)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_worker_processes_use_the_engine_they_were_forked_with(toy_bundle: Path) -> None:
    global _engine
    with Engine.load(toy_bundle, backend="native", threads=2, check="sizes") as engine:
        expected = [score(engine, rows) for rows in ROWS]
        _engine = engine
        try:
            with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
                assert list(pool.map(_in_worker, ROWS, timeout=PATIENCE_S)) == expected
        finally:
            _engine = None
