from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest
from children import ended, fork

from pepnet_infer.errors import ConfigError, StoreError
from pepnet_infer.rows.stores.lmdb import LmdbStore
from pepnet_infer.schema.ids import ID_BITS

DIM = 16


def write(store: LmdbStore, first: int, count: int, version: int = 1) -> int:
    """Puts rows that are functions of key and version."""
    keys = np.arange(first, first + count, dtype=np.uint64)
    return store.put_many(keys, rows_of(keys, version), np.full(count, version, np.uint64))


def rows_of(keys: np.ndarray, version: int) -> np.ndarray:
    return np.repeat((keys * 3 + version).astype(np.float32)[:, None], DIM, axis=1)


def check(store: LmdbStore, count: int, version: int = 1) -> None:
    keys = np.arange(count, dtype=np.uint64)
    got = store.get_many(keys, DIM)
    assert got.found.all()
    np.testing.assert_array_equal(got.rows, rows_of(keys, version))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(path: Path) -> Iterator[LmdbStore]:
    with LmdbStore(path, map_bytes=1 << 17, durable=False) as opened:
        yield opened


def in_process(code: str, path: Path) -> str:
    """Runs code with `store`, opened on `path` by a process of its own, and `numpy as np`; returns what it printed."""
    start = (
        f"import numpy as np\nfrom pepnet_infer.rows.stores.lmdb import LmdbStore\nstore = LmdbStore({str(path)!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_map_grows_while_others_read(store: LmdbStore) -> None:
    write(store, 0, 100)
    stop, failures = threading.Event(), []

    def read() -> None:
        try:
            while not stop.is_set():
                check(store, 100)
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    before = store.map_bytes
    for first in range(100, 10_100, 1000):
        assert write(store, first, 1000) == 1000
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert store.map_bytes >= 8 * before
    check(store, 10_100)


GROW = """
keys = np.arange(9000, dtype=np.uint64)
rows = np.repeat((keys * 3 + 2).astype(np.float32)[:, None], 16, axis=1)
print(store.put_many(keys, rows, np.full(9000, 2, np.uint64)))
"""


def test_it_is_there_when_opened_again_and_for_other_processes(path: Path, store: LmdbStore) -> None:
    write(store, 0, 10)
    again = "print(store.get_many(np.arange(12, dtype=np.uint64), 16).found.sum())"
    assert in_process(again, path) == "10\n"
    assert in_process(GROW, path) == "9000\n"
    check(store, 9000, version=2)  # the file has outgrown the map this process had
    assert write(store, 0, 10, version=2) == 0
    store.close()
    with LmdbStore(path, readonly=True) as other:
        check(other, 9000, version=2)
        assert len(other) == 9000
        with pytest.raises(StoreError, match=r"store: expected an LMDB store that works, got: .*(read-only|denied)"):
            write(other, 0, 1, version=9)


def test_a_file_that_another_process_made_larger_can_be_written(path: Path, store: LmdbStore) -> None:
    write(store, 0, 10)
    assert in_process(GROW, path) == "9000\n"
    assert write(store, 0, 9000, version=3) == 9000
    check(store, 9000, version=3)


def test_a_closed_or_missing_store_is_an_error(path: Path, store: LmdbStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"expected an LMDB store that works, got: .*already open"):
        LmdbStore(path)
    store.close()
    store.close()
    for call in (lambda: check(store, 1), lambda: write(store, 0, 1), store.purge, lambda: len(store)):
        with pytest.raises(StoreError, match="store: expected an open store, got one that was closed"):
            call()
    with pytest.raises(StoreError, match=r"none: expected an LMDB store that works, got: .*No such file"):
        LmdbStore(tmp_path / "none", readonly=True)
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "data.mdb").write_bytes(b"no LMDB file" * 1000)
    with pytest.raises(StoreError, match=r"junk: expected an LMDB store that works, got: .*not an LMDB file"):
        LmdbStore(tmp_path / "junk")
    for options, said in (
        ({"dtype": "int8"}, "dtype: expected one of bfloat16, float16, float32, got 'int8'"),
        ({"map_bytes": 0}, "map_bytes: expected an integer from 1, got 0"),
        ({"durable": 1}, "durable: expected true or false, got 1"),
        ({"max_readers": "many"}, "max_readers: expected an integer from 1 to 1048576, got 'many'"),
        ({"remember": -1.0}, "remember: expected a number from 0, got -1.0"),
    ):
        with pytest.raises(ConfigError, match=said):
            LmdbStore(path, **options)  # type: ignore[arg-type]


def test_a_damaged_value_costs_its_row_alone_and_is_replaced_by_the_next_update(path: Path, store: LmdbStore) -> None:
    write(store, 0, 20)
    store.close()
    damage = {3: lambda v: v[:-4], 5: lambda v: v[:40] + b"\x55" + v[41:], 8: lambda v: b"", 9: lambda v: v[:8] * 3}
    with lmdb.open(str(path), max_dbs=2) as env:
        rows = env.open_db(b"rows")
        with env.begin(write=True, db=rows) as txn:
            for key, change in damage.items():
                name = key.to_bytes(8, "big")
                txn.put(name, change(txn.get(name)))
            txn.put((11).to_bytes(8, "big"), txn.get((12).to_bytes(8, "big")))
    with LmdbStore(path) as again:
        got = again.get_many(np.arange(20, dtype=np.uint64), DIM)
        assert np.flatnonzero(~got.found).tolist() == [3, 5, 8, 9, 11]
        assert (got.rows[~got.found] == 0).all()
        assert again.damaged == 5
        assert write(again, 0, 20) == 5
        check(again, 20)
        assert again.damaged == 5


def test_a_write_that_fails_writes_nothing(store: LmdbStore) -> None:
    write(store, 5, 1)
    keys = np.array([4, 5, 4, 5], np.uint64)
    with pytest.raises(StoreError, match="key 5: expected a row of width 16 as it has, got 3"):
        store.put_many(keys, np.zeros((4, 3), np.float32), np.array([1, 1, 2, 2], np.uint64))
    assert not store.get_many(keys[:1], 3).found.any()
    assert len(store) == 1


def test_purge_takes_out_what_need_not_be_remembered(path: Path) -> None:
    now = [1000.0]
    with LmdbStore(path, durable=False, remember=100.0, clock=lambda: now[0]) as store:
        keys = np.arange(40_000, dtype=np.uint64)
        rows, versions = np.ones((keys.size, 1), np.float32), np.full(keys.size, 5, np.uint64)
        expires = np.where(keys % 4 == 0, 1050.0, np.inf)
        store.put_many(keys, rows, versions, None, expires)
        store.delete_many(keys[1::4], versions[1::4] + np.uint64(1))
        now[0] = 1120.0
        assert store.purge() == 10_000  # the deletions
        assert len(store) == 30_000
        now[0] = 1151.0
        assert store.purge() == 10_000  # the expired
        assert store.purge() == 0
        found = store.get_many(keys, 1).found
        assert np.flatnonzero(found).tolist() == [k for k in range(40_000) if k % 4 > 1]
        assert store.put_many(keys[1:2], rows[:1], versions[:1]) == 1  # forgotten


def test_a_table_lies_together(path: Path, store: LmdbStore) -> None:
    for number in (2, 0, 1):
        write(store, number << ID_BITS, 3)
    store.close()
    with lmdb.open(str(path), max_dbs=2) as env, env.begin(db=env.open_db(b"rows")) as txn:
        names = [int.from_bytes(name, "big") for name in txn.cursor().iternext(values=False)]
    assert [name >> ID_BITS for name in names] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_without_the_package_it_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(StoreError, match=r"store: expected the package lmdb \(extra \[lmdb\]\), got: "):
        LmdbStore(path)
    assert not path.exists()


def test_a_map_that_is_too_small_to_be_opened_grows(tmp_path: Path) -> None:
    with LmdbStore(tmp_path / "new", map_bytes=1) as small:
        keys = np.arange(9, dtype=np.uint64)
        assert small.put_many(keys, np.ones((9, 4), np.float32), np.ones(9, np.uint64)) == 9
        assert small.map_bytes > 1


def test_a_head_that_no_map_fits_is_an_error(path: Path, store: LmdbStore) -> None:
    store.put_many(np.arange(9, dtype=np.uint64), np.ones((9, 4), np.float32), np.ones(9, np.uint64))
    store.close()
    data = bytearray((path / "data.mdb").read_bytes())
    for page in (0, 4096):
        data[page + 136 : page + 144] = (1 << 63).to_bytes(8, "little")  # the last page that is used
    (path / "data.mdb").write_bytes(data)
    with pytest.raises(StoreError, match="expected a file whose size its own pages tell, got one that fits no map"):
        LmdbStore(path, readonly=True)


def test_a_pipe_in_place_of_the_file_is_not_waited_for(path: Path, store: LmdbStore) -> None:
    store.close()
    (path / "data.mdb").unlink()
    os.mkfifo(path / "data.mdb")
    with pytest.raises(StoreError, match=r"data\.mdb: expected a regular file, got a pipe"):
        LmdbStore(path, readonly=True)


def test_a_process_of_the_same_number_in_another_container_is_said(path: Path, store: LmdbStore) -> None:
    # LMDB locks the byte at a process's number, and so does this child for its parent's
    store.close()
    number, locked, end = os.getpid(), os.pipe(), os.pipe()

    def hold() -> None:
        os.close(end[1])
        with open(path / "lock.mdb", "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            os.write(locked[1], b"x")
            os.read(end[0], 1)

    child = fork(hold)
    os.read(locked[0], 1)
    with pytest.raises(StoreError, match=f"expected no other process with the number {number}"):
        LmdbStore(path, readonly=True).get_many(np.arange(1, dtype=np.uint64), 4)
    os.close(end[1])
    assert ended(child) == 0
