"""Parts that have locks, connections or threads, in a child forked while other threads hold them."""

from __future__ import annotations

import fcntl
import os
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis
from children import PATIENCE_S, ended, fork, well_in_a_child

import pepnet_infer
from pepnet_infer._kernels import FileLock
from pepnet_infer.backends.ort_library import Opening
from pepnet_infer.computed_once import computed_once
from pepnet_infer.errors import StoreError
from pepnet_infer.parquet.sink import Sink, lock_of
from pepnet_infer.process import forks
from pepnet_infer.rows.stores.memory import MemoryStore
from pepnet_infer.rows.stores.redis import RedisStore
from pepnet_infer.sync.logs.directory import DirectoryLog
from pepnet_infer.sync.logs.redis import RedisLog

pytestmark = pytest.mark.concurrency

DIM = 4
KEYS = np.arange(50, dtype=np.uint64)


def fill(store: Any) -> None:
    store.put_many(KEYS, np.repeat(KEYS.astype(np.float32)[:, None], DIM, axis=1), np.ones(len(KEYS), np.uint64))


def check(store: Any) -> None:
    got = store.get_many(KEYS, DIM)
    assert got.found.all()
    assert np.array_equal(got.rows[:, 0], KEYS.astype(np.float32))


@contextmanager
def held_elsewhere(lock: AbstractContextManager[object]) -> Iterator[None]:
    """Another thread holds the lock, one that is not there in a child."""
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            leave.wait(120)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    try:
        yield
    finally:
        leave.set()
        thread.join()


def test_a_memory_store_whose_lock_is_held() -> None:
    held, leave = threading.Event(), threading.Event()

    def clock() -> float:  # is asked with the lock held
        if threading.current_thread() is reader:
            held.set()
            leave.wait(PATIENCE_S)
        return time.time()

    store = MemoryStore(clock=clock)
    reader = threading.Thread(target=lambda: check(store))
    fill(store)
    reader.start()
    assert held.wait(PATIENCE_S)
    try:
        well_in_a_child(lambda: check(store))
    finally:
        leave.set()
        reader.join()
    check(store)


class Slow:
    """Its property is computed when the events say so."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.go.set()

    @computed_once
    def length(self) -> int:
        self.begun.set()
        assert self.go.wait(PATIENCE_S)
        return 3


def test_a_property_that_another_thread_computes() -> None:
    computed, other = Slow(), Slow()
    computed.go.clear()
    thread = threading.Thread(target=lambda: computed.length)
    thread.start()
    assert computed.begun.wait(PATIENCE_S)

    def work() -> None:
        assert other.length == 3

    well_in_a_child(work)
    computed.go.set()
    thread.join(PATIENCE_S)
    assert "length" in vars(computed)
    assert computed.length == 3


def test_no_property_has_the_lock_of_functools() -> None:
    # up to Python 3.11 it is one lock for all instances, which no fork lets go of
    package = Path(pepnet_infer.__file__).parent
    sources = {path.name: path.read_text() for path in package.rglob("*.py")}
    assert [name for name, text in sources.items() if "import cached_property" in text] == []


def test_a_thread_that_opens_a_session_forks() -> None:
    opening = Opening()
    with opening:
        opening.before_fork()
        opening.after_fork_in_parent()
    opening.before_fork()
    opening.after_fork()
    held = threading.Thread(target=opening.__enter__)  # and never lets go, as in a child in which it is not
    held.start()
    held.join(PATIENCE_S)
    opening.after_fork()  # of a server that did not ask before
    with opening:
        pass


def test_a_redis_store_has_connections_of_its_own_in_a_child(redis_server: Any) -> None:
    with RedisStore(redis_server.url, prefix="forked") as store:
        fill(store)
        stop, failures = threading.Event(), list[BaseException]()

        def keep_busy() -> None:
            try:
                while not stop.is_set():
                    check(store)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=keep_busy) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(5):
                with held_elsewhere(store.lock.alone()):
                    well_in_a_child(lambda: check(store))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert failures == []
        with pickle.loads(pickle.dumps(store)) as other:
            check(other)
    given = RedisStore(redis.Redis.from_url(redis_server.url))
    with pytest.raises(TypeError, match="give it a URL instead"):
        pickle.dumps(given)


def test_a_log_in_redis_is_read_by_a_child(redis_server: Any, tmp_path: Path) -> None:
    log = RedisLog(redis_server.url, "forked", spool=tmp_path, create=True)
    assert log.read("") == []
    well_in_a_child(lambda: log.read(""))
    assert log.read("") == []


def test_a_log_in_redis_that_another_thread_writes_to_is_written_to_by_a_child(
    redis_server: Any, tmp_path: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[threading.Lock] = []

    def lock() -> threading.Lock:
        made.append(threading.Lock())
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(forks, "threading", SimpleNamespace(Lock=lock))
        log = RedisLog(redis_server.url, "written", spool=tmp_path, create=True)
    [writers] = made
    with held_elsewhere(writers):
        well_in_a_child(lambda: log.append_bundle(toy_bundle))
    assert log.last_bundle() is not None


def test_a_store_that_is_away_is_an_error_in_a_child_too() -> None:
    store = RedisStore("redis://127.0.0.1:1/0")

    def refused() -> None:
        with pytest.raises(StoreError):
            store.get_many(KEYS, DIM)

    well_in_a_child(refused)


def test_a_child_does_not_hold_the_locks_of_files_on(tmp_path: Path) -> None:
    begun, end = os.pipe()
    lives, alive = os.pipe()
    children = list[int]()

    def wait_for_the_parent() -> None:
        os.close(end)
        os.write(alive, b"c")
        os.read(begun, 1)  # until the parent closes its end

    schema = pa.schema({"x": pa.int64()})
    DirectoryLog(tmp_path / "log", create=True)
    with FileLock(tmp_path / "log" / "writer.lock", os.O_RDWR):
        children.append(fork(wait_for_the_parent))
    with lock_of(tmp_path / "out.parquet"), Sink(tmp_path / "out.parquet", schema) as sink:
        children.append(fork(wait_for_the_parent))
        sink.write(pa.record_batch({"x": pa.array([1])}))
        sink.commit({})
    os.close(alive)
    for _ in children:  # until then a child may not have let go of anything yet
        assert os.read(lives, 1) == b"c"
    with open(tmp_path / "log" / "writer.lock", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(tmp_path / "out.parquet", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for number in (begun, end, lives):
        os.close(number)
    for child in children:
        assert ended(child) == 0
