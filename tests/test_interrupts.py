"""Exceptions that come at any instruction of a call with misses: nothing of the call is left behind.

What a signal's handler raises, KeyboardInterrupt, and what `PyThreadState_SetAsyncExc` raises in another thread come
between two instructions of Python; MemoryError wherever anything is made.
"""

from __future__ import annotations

import ctypes
import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import interrupting
import numpy as np
import pytest
from interrupting import Interrupt, within
from open_engine import OpenEngine

import pepnet_infer
from pepnet_infer import CacheConfig, Engine, StoreError
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.rows.cache.cached_rows import CachedRows
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import RowBatch

pytestmark = pytest.mark.concurrency

PACKAGE = str(Path(pepnet_infer.__file__).parent)
#: Where a call takes hold of something: all that comes after the batch is encoded.
PARTS = tuple(f"{PACKAGE}/{part}" for part in ("rows/", "versions/", "engine.py"))
Make = Callable[..., dict[str, Any]]


class World:
    """An engine over a store, and what its scores are."""

    def __init__(self, bundle: Path, batch: dict[str, Any], **options: Any) -> None:
        self.store = MmapStore(Bundle.open(bundle).table_paths)
        self.before: Callable[[], object] = lambda: None
        self.engine = OpenEngine.load(bundle, threads=1, store=self, cache=CacheConfig(warm=False, **options))
        self.rows = self.engine.cache
        assert isinstance(self.rows, CachedRows)
        with Engine.load(bundle, threads=1, cache=None) as plain:
            self.features = plain.encode(batch)
            self.expected = plain.score_features(self.features)

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        self.before()
        return self.store.get_many(keys, dim)

    def forget(self) -> None:
        assert self.rows is not None
        for cache in self.rows.caches.values():
            cache.clear()

    def call(self) -> None:
        self.engine.score_features(self.features)

    def holds(self) -> None:
        """No fetch is under way and no version in use, and calls are right, bit for bit."""
        assert self.rows is not None
        end = time.monotonic() + 60
        while self.rows.stats()["flights"]:  # another thread's, which ends by itself
            assert time.monotonic() < end, "a fetch was left under way"
            time.sleep(0.001)
        assert len(self.rows.fetches) == 0
        assert self.engine.versions.calls == 0
        scores = self.engine.score_features(self.features)
        np.testing.assert_array_equal(scores.values, self.expected.values)
        assert (scores.unknown, scores.unavailable) == (self.expected.unknown, {})


@pytest.fixture(params=[{}, {"budget_ms": 60_000}], ids=["in this thread", "in another"])
def world(request: pytest.FixtureRequest, toy_bundle: Path, toy_batch: Make) -> Iterator[World]:
    world = World(toy_bundle, toy_batch(12, 5), **request.param)
    yield world
    world.engine.close()


def interrupt_each(world: World, call: Callable[[], None], step: int) -> int:
    """Interrupts a call at every `step`th instruction, with nothing in the cache. Returns at how many."""
    return interrupting.interrupt_each(call, world.holds, PARTS, step, before=world.forget)


def test_a_call_that_is_interrupted_at_any_instruction_leaves_nothing_behind(world: World) -> None:
    assert interrupt_each(world, world.call, step=127) > 20


@pytest.mark.slow
def test_every_instruction_of_a_call(world: World) -> None:
    assert interrupt_each(world, world.call, step=1) > 1000


def test_a_prefetch_that_is_interrupted_leaves_nothing_behind(toy_bundle: Path, toy_batch: Make) -> None:
    world = World(toy_bundle, toy_batch(12, 5))
    rows = world.rows
    assert rows is not None

    def prefetch() -> None:
        rows.prefetch("user", range(30))
        rows.warm({"video": (rows.keys("video", range(30)), np.ones(30, np.float32))})

    assert interrupt_each(world, prefetch, step=61) > 20
    world.engine.close()


def interrupt_threads(world: World, times: int) -> None:
    """Raises in threads that score, at moments that nobody chooses; each is given time to see it."""
    stop, seen = threading.Event(), [0, 0, 0]

    def work(number: int) -> None:
        while True:  # another handler around the first: the exception may come in its own few instructions
            try:
                while not stop.is_set():
                    try:
                        while not stop.is_set():
                            if number == 0:
                                world.forget()
                            world.call()
                    except Interrupt:
                        seen[number] += 1
                return
            except Interrupt:
                seen[number] += 1

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(seen))]
    for thread in threads:
        thread.start()
    rng = random.Random(7)
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    for turn in range(times):
        number = turn % len(seen)
        before = seen[number]
        time.sleep(rng.uniform(0, 1e-3))
        assert raise_in(ctypes.c_ulong(threads[number].ident or 0), ctypes.py_object(Interrupt)) == 1
        end = time.monotonic() + 60
        while seen[number] == before:
            assert time.monotonic() < end, f"thread {number} waits for ever after {turn} interrupts"
            time.sleep(0.0001)
    stop.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    world.forget()
    world.holds()


def test_threads_that_are_interrupted_hold_nobody_up(world: World) -> None:
    interrupt_threads(world, 150)


@pytest.mark.slow
def test_ten_thousand_interrupts(world: World) -> None:
    interrupt_threads(world, 10_000)


def test_a_signal_ends_the_wait_for_another_calls_fetch(toy_bundle: Path, toy_batch: Make) -> None:
    world = World(toy_bundle, toy_batch(12, 5))
    entered, go = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        go.wait(60)

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupt

    world.before = hold
    before = signal.signal(signal.SIGALRM, stop)
    with ThreadPoolExecutor(1) as another:
        asking = another.submit(world.engine.score_features, world.features)
        assert entered.wait(60)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Interrupt):
                world.call()  # joins the fetch
            assert not go.is_set()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            go.set()
        np.testing.assert_array_equal(asking.result(60).values, world.expected.values)  # not harmed by it
    world.holds()
    world.engine.close()


def test_who_waits_for_a_call_that_runs_out_of_memory_asks_itself(toy_bundle: Path, toy_batch: Make) -> None:
    world = World(toy_bundle, toy_batch(12, 5), on_fault="raise")
    entered, go = threading.Event(), threading.Event()

    def fail() -> None:
        world.before = lambda: None
        entered.set()
        go.wait(60)
        raise Interrupt

    world.before = fail
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(world.call)
        assert entered.wait(60)
        second = pool.submit(world.holds)
        go.set()
        with pytest.raises(Interrupt):
            first.result(60)
        second.result(60)
    world.before = lambda: (_ for _ in ()).throw(MemoryError("no more"))
    world.forget()
    with pytest.raises(StoreError, match="expected an answer, got MemoryError"):
        world.call()
    world.before = lambda: None
    world.holds()
    world.engine.close()


def test_nobody_waits_for_a_warning_of_another_call(world: World) -> None:
    """A handler of the log may hang, or its lock be left by an interrupt."""
    entered, go = threading.Event(), threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            entered.set()
            go.wait(120)

    def fail() -> None:
        raise StoreError("away")

    handler, log = Handler(), logging.getLogger("pepnet_infer.stores")
    world.before = fail
    world.forget()
    log.addHandler(handler)
    try:
        with ThreadPoolExecutor(1) as another:
            first = another.submit(world.call)
            try:
                assert entered.wait(60)
                within(world.call)
            finally:
                go.set()
            first.result(60)
    finally:
        log.removeHandler(handler)
    world.before = lambda: None
    world.holds()
