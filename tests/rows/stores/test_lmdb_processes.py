"""An LMDB store in many processes: forks, killed readers, files that were cut, workers that are started with it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest
from children import PATIENCE_S, ended, fork, well_in_a_child

from pepnet_infer.errors import StoreError
from pepnet_infer.rows.stores import lmdb_file
from pepnet_infer.rows.stores.lmdb import LmdbStore

pytestmark = pytest.mark.concurrency

DIM = 8


def keys_of(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint64)


def filled(path: Path, count: int = 200, **options: object) -> LmdbStore:
    store = LmdbStore(path, durable=False, map_bytes=1 << 20, **options)  # type: ignore[arg-type]
    keys = keys_of(count)
    store.put_many(keys, np.repeat(keys.astype(np.float32)[:, None], DIM, axis=1), np.ones(count, np.uint64))
    return store


def check(store: LmdbStore, count: int = 200) -> None:
    got = store.get_many(keys_of(count), DIM)
    assert got.found.all()
    assert np.array_equal(got.rows[:, 0], keys_of(count).astype(np.float32))


def test_a_child_reads_and_writes_and_so_does_its_parent(tmp_path: Path) -> None:
    with filled(tmp_path) as store:

        def work() -> None:
            check(store)
            store.put_many(keys_of(1), np.full((1, DIM), 7, np.float32), np.full(1, 2, np.uint64))
            well_in_a_child(lambda: check_first(store, 7))
            store.close()

        well_in_a_child(work)
        check_first(store, 7)
        assert store.put_many(keys_of(1), np.full((1, DIM), 8, np.float32), np.full(1, 3, np.uint64)) == 1
        check_first(store, 8)


def check_first(store: LmdbStore, value: float) -> None:
    assert store.get_many(keys_of(1), DIM).rows[0, 0] == value


def test_forks_while_threads_read_and_write(tmp_path: Path) -> None:
    with filled(tmp_path) as store:
        stop, failures = threading.Event(), list[BaseException]()

        def keep_busy(work: Callable[[], object]) -> None:
            try:
                while not stop.is_set():
                    work()
            except BaseException as error:
                failures.append(error)

        other = keys_of(50) + np.uint64(1000)
        rows = np.zeros((50, DIM), np.float32)
        works: list[Callable[[], object]] = [
            lambda: check(store),
            lambda: check(store),
            lambda: store.put_many(other, rows, np.ones(50, np.uint64)),
            lambda: len(store),
        ]
        threads = [threading.Thread(target=keep_busy, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                well_in_a_child(lambda: check(store))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert failures == []


def test_what_the_parent_read_stays_as_it_was_while_children_come_and_go(tmp_path: Path) -> None:
    with filled(tmp_path) as store:
        for version in range(2, 12):  # pages that a reader holds must not be used again
            well_in_a_child(lambda: check(store))
            keys = keys_of(200)
            store.put_many(
                keys, np.repeat(keys.astype(np.float32)[:, None], DIM, axis=1), np.full(200, version, np.uint64)
            )
            check(store)


def test_a_closed_store_is_closed_in_a_child(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.close()

    def refused() -> None:
        with pytest.raises(StoreError, match="expected an open store, got one that was closed"):
            check(store)

    well_in_a_child(refused)


def test_a_fork_that_python_does_not_see_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with filled(tmp_path) as store:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(StoreError, match="expected the process that opened the store, got one forked from it"):
            check(store)
        monkeypatch.undo()
        check(store)


def test_a_fork_from_inside_a_transaction_is_told(tmp_path: Path) -> None:
    def refused() -> None:
        with pytest.raises(StoreError, match="open a store in the child"):
            check(store)

    def fork_here(signal_number: int, frame: object) -> None:
        codes.append(ended(fork(refused)))

    codes = list[int]()
    with filled(tmp_path) as store:
        before = signal.signal(signal.SIGUSR1, fork_here)
        try:
            store.env.read(lambda txn: signal.raise_signal(signal.SIGUSR1))
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert codes == [0]
        check(store)


READER = """
import sys, time
import numpy as np
from pepnet_infer.rows.stores.lmdb import LmdbStore
store = LmdbStore(sys.argv[1], readonly=True, max_readers=4)
assert store.get_many(np.arange(200, dtype=np.uint64), 8).found.all()
print("reads", flush=True)
time.sleep(600)
"""


def _reader(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", READER, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline() != "reads\n":
        process.kill()
        raise AssertionError(process.communicate()[1])
    return process


def _take_slots(store: LmdbStore, count: int) -> None:
    """Leaves `count` slots taken by a process that was killed, as far as there are any. The store is open meanwhile."""
    begun, go = os.pipe()

    def take() -> None:
        os.close(go)
        os.read(begun, 1)  # until the parent has the file open again: who opens it alone begins with no slot taken
        env = lmdb.open(str(store.path), readonly=True, max_readers=4, max_spare_txns=0)
        held = []
        try:
            for _ in range(count):
                held.append(env.begin())
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    child = fork(take)
    check(store)
    os.close(go)
    assert ended(child) == -signal.SIGKILL
    os.close(begun)


def test_slots_of_killed_readers_are_taken_back_at_open_and_when_they_run_out(tmp_path: Path) -> None:
    with filled(tmp_path, max_readers=4) as store:
        _take_slots(store, 4)
        store.env.read(lambda txn: check(store))  # one slot it has, this takes another
    with filled(tmp_path, max_readers=4) as store:
        _take_slots(store, 4)
        stop = threading.Event()

        def keep_reading() -> None:
            while not stop.wait(0.01):
                check(store)

        thread = threading.Thread(target=keep_reading)
        thread.start()
        try:
            process = _reader(tmp_path)  # which cannot open it until another takes slots back
        finally:
            stop.set()
            thread.join()
        process.kill()
        process.communicate()
        check(store)


def test_slots_of_processes_that_run_are_theirs(tmp_path: Path) -> None:
    with filled(tmp_path, max_readers=1) as store:
        store.close()
        with filled(tmp_path, max_readers=1) as store:
            process = _reader(tmp_path)
            try:
                with pytest.raises(StoreError, match="expected a free reader slot, got all of them taken by processes"):
                    check(store)
            finally:
                process.kill()
                process.communicate()
            check(store)


def test_a_file_that_was_cut_is_an_error(tmp_path: Path) -> None:
    filled(tmp_path, 3000).close()
    file = tmp_path / "data.mdb"
    whole = file.read_bytes()
    for size in (len(whole) // 2, len(whole) - 1, 4096 * 3, 4096 * 2):
        file.write_bytes(whole[:size])
        for readonly in (True, False):
            with pytest.raises(StoreError, match=r"data\.mdb: expected the pages that it uses, up to number \d+ of"):
                LmdbStore(tmp_path, readonly=readonly)
    for size in (0, 100, 4096):
        file.write_bytes(whole[:size])
        with pytest.raises(StoreError):
            LmdbStore(tmp_path, readonly=True)
    file.write_bytes(whole)
    with LmdbStore(tmp_path) as store:
        check(store, 3000)


def test_pages_at_the_end_that_nothing_uses_may_lack(tmp_path: Path) -> None:
    def put_and_delete(txn: lmdb.Transaction[bytes]) -> None:
        txn.put(b"a value", bytes(1 << 16))  # on pages of its own, which are free again before they are written
        txn.delete(b"a value")

    with filled(tmp_path) as store:
        keys = keys_of(200)
        rows = np.repeat(keys.astype(np.float32)[:, None], DIM, axis=1)
        assert store.put_many(keys, rows, np.full(200, 2, np.uint64)) == 200  # pages of the first write are free now
        store.env.write(put_and_delete, 0)
    whole = (tmp_path / "data.mdb").read_bytes()
    with open(tmp_path / "data.mdb", "rb") as file:
        meta = lmdb_file.read_meta(file.fileno())
    assert meta is not None
    assert len(whole) < 4096 * meta.last_page
    with LmdbStore(tmp_path) as store:
        check(store)
    assert _is_used(whole, len(whole) // 4096 - 1, tmp_path)


def test_values_on_pages_of_their_own_are_looked_for(tmp_path: Path) -> None:
    wide, other = np.ones((4, 3000), np.float32), keys_of(1) + np.uint64(9)
    with LmdbStore(tmp_path, durable=False, map_bytes=1 << 22) as store:
        for version in range(2, 30):  # the roots move to pages that are free again, the values stay at the end
            store.put_many(other, wide[:1, :DIM], np.full(1, version, np.uint64))
            if version == 6:
                store.put_many(keys_of(4), wide, np.ones(4, np.uint64))
    whole = (tmp_path / "data.mdb").read_bytes()

    def read() -> None:
        with LmdbStore(tmp_path, readonly=True) as store:
            assert store.get_many(keys_of(4), 3000).found.all()

    for number in range(2, len(whole) // 4096 + 1):
        if not _is_used(whole, number, tmp_path):
            well_in_a_child(read)  # SIGBUS ends who reads a page that is not there


def _is_used(whole: bytes, number: int, path: Path) -> bool:
    (path / "data.mdb").write_bytes(whole[: 4096 * number])
    try:
        LmdbStore(path, readonly=True).close()
    except StoreError:
        return True
    return False


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_are_given_the_store(tmp_path: Path, method: str) -> None:
    with filled(tmp_path, dtype="float16") as store:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
            assert pool.submit(len, store).result(PATIENCE_S) == 200
        pickled = pickle.dumps(store)
    with pickle.loads(pickled) as other:
        assert (other.path, other.dtype) == (tmp_path, "float16")
        check(other)


def test_a_store_goes_with_its_last_user(tmp_path: Path) -> None:
    store = filled(tmp_path)
    env = weakref.ref(store.env)
    store.close()
    del store
    gc.collect()
    assert env() is None
