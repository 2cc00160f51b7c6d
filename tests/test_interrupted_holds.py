"""Exceptions that come at any instruction while a lock is held: it is not held on, although tracebacks are kept."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import interrupting
import numpy as np
import pyarrow as pa
import pytest
from interrupting import PATIENCE_S, Interrupt, Tracer, run, within

import pepnet_infer
from pepnet_infer import Engine
from pepnet_infer._kernels import SharedLock
from pepnet_infer.parquet.resume import REQUEST_KEY
from pepnet_infer.parquet.sink import Sink, alone, lock_of
from pepnet_infer.rows.stores.lmdb import LmdbStore
from pepnet_infer.storage.atomic import new_directory, write_file
from pepnet_infer.sync.follow_config import FollowConfig
from pepnet_infer.sync.logs.directory import DirectoryLog

pytestmark = pytest.mark.concurrency

#: Where something is held: the package, what it makes context managers with, and the blocks of these tests.
PARTS = (str(Path(pepnet_infer.__file__).parent), contextlib.__file__, __file__)


def interrupt_each(call: Callable[[], object], others: Callable[[], object], step: int = 1, **around: Any) -> int:
    """The same, in the code named above."""
    return interrupting.interrupt_each(call, others, PARTS, step, **around)


@pytest.fixture
def following(toy_bundle: Path, tmp_path: Path) -> Iterator[Engine]:
    config = FollowConfig(name="test", wait_s=0.02, retry_s=0.02, guard=None)
    with Engine.load(toy_bundle, threads=1) as engine:
        engine.follow(DirectoryLog(tmp_path / "log", create=True), config)
        yield engine


def test_a_version_that_is_held_is_let_go_of(following: Engine) -> None:
    def hold() -> None:
        with following.hold():
            pass

    assert interrupt_each(hold, hold) > 10


def test_who_closes_an_engine_that_an_interrupted_block_held_does_not_wait(following: Engine) -> None:
    def hold() -> None:
        with following.hold():
            raise Interrupt

    kept = run(Tracer(None, PARTS), hold)
    assert kept is not None
    within(following.close)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    with LmdbStore(tmp_path / "rows", durable=False, map_bytes=1 << 20) as store:
        yield store


KEYS = np.arange(4, dtype=np.uint64)
ROWS = np.ones((4, 8), np.float32)


def test_reads_and_writes_of_an_lmdb_store_hold_nobody_up(store: LmdbStore) -> None:
    versions = iter(range(1, 1 << 20))

    def write() -> None:
        store.put_many(KEYS, ROWS, np.full(4, next(versions), np.uint64))

    def use() -> None:
        write()
        store.get_many(KEYS, 8)

    def others() -> None:
        write()  # has the file's one writer
        store.env.resize(0)  # waits for all who share the gate
        assert store.get_many(KEYS, 8).found.all()

    assert interrupt_each(use, others, step=5) > 100


def test_a_map_that_grows_holds_nobody_up(store: LmdbStore) -> None:
    def others() -> None:
        store.env.resize(0)
        store.get_many(KEYS, 8)

    assert interrupt_each(lambda: store.env.resize(0), others) > 20


def test_a_thread_that_was_interrupted_may_fork(store: LmdbStore) -> None:
    sharing = []
    interrupt_each(lambda: store.map_bytes, lambda: None, after=lambda: sharing.append(store.env.gate.is_sharing))
    assert len(sharing) > 10
    assert not any(sharing)


def test_writers_of_a_directory_log_hold_no_other_writer_up(tmp_path: Path) -> None:
    log, other = DirectoryLog(tmp_path / "log", create=True), DirectoryLog(tmp_path / "log")

    def write() -> None:
        assert log.trim(keep=1) == 0  # with the writers' lock

    assert interrupt_each(write, lambda: other.trim(keep=1), step=2) > 100


def test_an_output_that_was_interrupted_is_written_again(tmp_path: Path) -> None:
    """In the same process, as from a notebook, which keeps the traceback."""
    target, rows = tmp_path / "out.parquet", pa.record_batch({"x": [1]})

    def write() -> None:
        with alone(target), lock_of(target), Sink(target, rows.schema) as sink:
            sink.write(rows)
            sink.commit({REQUEST_KEY: "the same"})  # an output, which the next may take the place of

    assert interrupt_each(write, write, step=13) > 50
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_an_output_whose_block_never_began_damages_none_that_is_written_later(tmp_path: Path) -> None:
    """An interrupt came between the two, and a traceback keeps the writer: Arrow ends its file when that goes."""
    target, rows = tmp_path / "out.parquet", pa.record_batch({"x": [1]})
    with alone(target), lock_of(target):
        kept = Sink(target, rows.schema)
    with alone(target), lock_of(target), Sink(target, rows.schema) as sink:
        sink.write(rows)
        sink.commit({})
    written = target.read_bytes()
    del kept
    gc.collect()
    assert target.read_bytes() == written


def test_what_an_interrupted_writer_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"

    def write() -> None:
        write_file(file, b"content")
        with new_directory(folder, "doc", overwrite=True) as root:
            (root / "doc").touch()

    assert interrupt_each(write, write, step=31) > 20
    gc.collect()  # tracebacks that are in a circle are kept until then
    write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_gate_is_had_again_by_its_thread_and_by_no_other() -> None:
    gate, asked = SharedLock(), threading.Event()

    def not_now() -> bool:
        asked.set()
        return True

    with gate.alone() as first, gate.alone() as second, ThreadPoolExecutor(1) as another:
        assert first
        assert second

        def other() -> bool:
            with gate.alone(unless=not_now) as had:
                return had

        assert another.submit(other).result(PATIENCE_S) is False
        assert asked.is_set()
    with ThreadPoolExecutor(1) as another:
        assert another.submit(other).result(PATIENCE_S) is True


def test_who_waits_for_a_gate_is_told_what_its_question_raises() -> None:
    gate = SharedLock()

    def fail() -> bool:
        raise Interrupt

    def other() -> None:
        with gate.alone(unless=fail):
            pass

    with gate.alone(), ThreadPoolExecutor(1) as another, pytest.raises(Interrupt):
        another.submit(other).result(PATIENCE_S)
    with gate.shared():
        assert gate.is_sharing
    assert not gate.is_sharing
