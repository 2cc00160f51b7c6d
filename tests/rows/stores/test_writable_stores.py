"""What every writable store does, asked of each of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.errors import StoreError
from pepnet_infer.rows.protocols import WritableStore
from pepnet_infer.rows.stores import writable
from pepnet_infer.rows.stores.lmdb import LmdbStore
from pepnet_infer.rows.stores.memory import MemoryStore
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.rows.stores.redis import RedisStore
from pepnet_infer.rows.stores.writable import fill_from
from pepnet_infer.schema.ids import MISSING_KEY, make_keys

DIM = 3
MakeStore = Callable[..., Any]


@pytest.fixture(params=["memory", "lmdb", "redis"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """Returns `make(**options)`, an empty store."""
    opened: list[Any] = []

    def make(**options: Any) -> Any:
        if request.param == "memory":
            options.pop("dtype", None)
            return MemoryStore(**options)
        if request.param == "lmdb":
            opened.append(LmdbStore(tmp_path / f"lmdb-{len(opened)}", map_bytes=1 << 18, durable=False, **options))
        else:
            server = request.getfixturevalue("redis_server")
            opened.append(RedisStore(server.url, prefix=str(tmp_path), timeout=10, connect_timeout=10, **options))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(make_store: MakeStore) -> Any:
    return make_store()


def u64(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def rows_of(*values: float) -> np.ndarray:
    """Rows that are [v, v + 0.25, v + 0.5]: exact in every dtype a store has."""
    return np.array(values, np.float32)[:, None] + np.arange(DIM, dtype=np.float32) / 4


def states(store: WritableStore, *keys: int) -> list[tuple[float | None, int]]:
    """(first number of the row, or None where there is none; version) of each key."""
    got = store.get_many(u64(*keys), DIM)
    assert (got.rows[~got.found] == 0).all()
    assert np.isnan(got.scores[~got.found]).all()
    assert np.isposinf(got.expires[~got.found]).all()
    firsts = [float(row[0]) if found else None for row, found in zip(got.rows, got.found, strict=True)]
    return list(zip(firsts, got.versions.tolist(), strict=True))


def test_what_was_put_is_got(store: WritableStore) -> None:
    keys = u64(0, 7, 1 << 40, int(make_keys(0xFFFE, u64((1 << 48) - 1))[0]))
    rows = rows_of(1, 2, 3, 4)
    rows[1, 1] = np.nan
    versions = u64(0, 1, 2**63 + 5, 2**64 - 1)
    scores = np.array([0.5, np.nan, -1, 7], np.float32)
    expires = np.array([np.inf, 4e9, np.inf, 1e300])
    assert store.put_many(keys, rows, versions, scores, expires) == 4
    order = [3, 0, 2, 2, 1, 0]
    asked = np.insert(keys[order], 2, [MISSING_KEY, np.uint64(5)])
    got = store.get_many(asked, DIM)
    assert got.found.tolist() == [True, True, False, False, True, True, True, True]
    there = np.flatnonzero(got.found)
    for array, wanted in zip(astuple(got)[:5], (rows, None, versions, scores, expires), strict=True):
        assert array.flags.c_contiguous
        if wanted is not None:
            np.testing.assert_array_equal(array[there], wanted[order])
    assert got.versions[2:4].tolist() == [0, 0]
    assert [(a.dtype.name, a.shape) for a in astuple(store.get_many(u64(), 5))[:5]] == [
        ("float32", (0, 5)),
        ("bool", (0,)),
        ("uint64", (0,)),
        ("float32", (0,)),
        ("float64", (0,)),
    ]
    assert store.put_many(u64(), np.empty((0, DIM), np.float32), u64()) == 0
    assert store.delete_many(u64(), u64()) == 0


def test_the_newest_version_wins_and_an_equal_one_is_a_replay(store: WritableStore) -> None:
    assert store.put_many(u64(1, 2, 3), rows_of(10, 20, 30), u64(5, 5, 2**40)) == 3
    assert store.put_many(u64(1, 2, 3), rows_of(11, 21, 31), u64(4, 5, 2**40 - 1)) == 0
    assert states(store, 1, 2, 3) == [(10, 5), (20, 5), (30, 2**40)]
    assert store.put_many(u64(3, 2, 1), rows_of(32, 22, 12), u64(2**40 + 1, 6, 1)) == 2
    assert states(store, 1, 2, 3) == [(10, 5), (22, 6), (32, 2**40 + 1)]


def test_a_batch_is_taken_in_order(store: WritableStore) -> None:
    keys, versions = u64(1, 2, 1, 1, 2, 1), u64(3, 1, 2, 4, 1, 3)
    assert store.put_many(keys, rows_of(0, 1, 2, 3, 4, 5), versions) == 3
    assert states(store, 1, 2) == [(3, 4), (1, 1)]
    assert store.delete_many(u64(1, 1, 1), u64(4, 6, 5)) == 1
    assert states(store, 1) == [(None, 6)]


def test_a_deletion_is_remembered_with_its_version(store: WritableStore) -> None:
    store.put_many(u64(1, 2), rows_of(1, 2), u64(5, 5))
    assert store.delete_many(u64(1, 2, 3), u64(6, 5, 9)) == 2  # 2: no newer than its row; 3: never there
    assert states(store, 1, 2, 3) == [(None, 6), (2, 5), (None, 9)]
    assert store.put_many(u64(1, 3, 3), rows_of(7, 8, 9), u64(6, 9, 8)) == 0
    assert store.put_many(u64(1, 3), rows_of(7, 8), u64(7, 10)) == 2
    assert states(store, 1, 3) == [(7, 7), (8, 10)]


def test_what_has_expired_is_not_found_and_remembered_for_a_while(make_store: MakeStore) -> None:
    import time

    shift = [0.0]
    store = make_store(remember=1000.0, clock=lambda: time.time() + shift[0])
    now = time.time()
    expires = np.array([now + 100, now + 100, np.inf, now - 10, now - 2000])
    store.put_many(u64(1, 2, 3, 4, 5), rows_of(1, 2, 3, 4, 5), u64(5, 5, 5, 5, 5), None, expires)
    assert states(store, 1, 2, 3, 4, 5) == [(1, 5), (2, 5), (3, 5), (None, 5), (None, 0)]
    store.delete_many(u64(2), u64(6))
    shift[0] = 200
    assert states(store, 1, 2, 3) == [(None, 5), (None, 6), (3, 5)]
    assert store.put_many(u64(1, 2), rows_of(7, 8), u64(5, 6)) == 0
    assert store.put_many(u64(1), rows_of(7), u64(6)) == 1
    assert states(store, 1) == [(7, 6)]
    shift[0] = 1300
    assert states(store, 1, 2, 3, 4) == [(7, 6), (None, 0), (3, 5), (None, 0)]


def test_a_row_of_another_width_is_an_error(store: WritableStore) -> None:
    store.put_many(u64(1, 2), rows_of(1, 2), u64(1, 1))
    got = store.get_many(
        u64(2, 9, MISSING_KEY), 2
    )  # left by an earlier model: it costs its own key, and is not unknown
    assert got.damage().tolist() == [True, False, False]
    assert not got.found.any()
    with pytest.raises(StoreError, match=r"key 1: expected a row of width .*, got"):
        store.put_many(u64(1), np.zeros((1, 2), np.float32), u64(9))
    assert states(store, 1) == [(1, 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(1, np.int64), rows_of(1), u64(1)), r"keys: expected uint64 \[N\], got int64 \[1\]"),
        ((u64(1, 2), rows_of(1), u64(1, 1)), r"rows: expected float32 \[2, dim\], got float32 \[1, 3\]"),
        ((u64(1), rows_of(1).astype(np.float64), u64(1)), r"rows: expected float32 \[1, dim\], got float64 \[1, 3\]"),
        ((u64(1), np.zeros((1, 0), np.float32), u64(1)), r"rows: expected float32 \[1, dim\], got float32 \[1, 0\]"),
        ((u64(1), rows_of(1), np.zeros(1, np.int64)), r"versions: expected uint64 \[1\], got int64 \[1\]"),
        ((u64(1), rows_of(1), 1), r"versions: expected uint64 \[1\], got int"),
        ((u64(1), rows_of(1), -1), r"versions: expected uint64 \[1\], got int"),
        ((u64(1), rows_of(1), 1 << 70), r"versions: expected uint64 \[1\], got int"),
        ((u64(1), rows_of(1), True), r"versions: expected uint64 \[1\], got bool"),
        ((u64(1), rows_of(1), u64(1), np.zeros(2, np.float32)), r"scores: expected float32 \[1\], got float32 \[2\]"),
        ((u64(1), rows_of(1), u64(1), None, np.zeros(1, np.float32)), r"expires: expected float64 \[1\], got float32"),
        (
            (u64(1), rows_of(1), u64(1), None, np.array([np.nan])),
            r"expires\[0\]: expected Unix seconds or inf, got NaN",
        ),
        ((u64(1, MISSING_KEY), rows_of(1, 2), u64(1, 1)), r"keys\[1\]: expected a table number below 65535, got 1844"),
    ],
)
def test_what_does_not_fit_is_refused_whole(store: WritableStore, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        store.put_many(*arguments)
    assert states(store, 1) == [(None, 0)]
    with pytest.raises(StoreError, match=r"keys: expected uint64 \[N\], got float64 \[1\]"):
        store.get_many(np.zeros(1), DIM)
    with pytest.raises(StoreError, match=r"versions: expected uint64 \[1\], got uint64 \[2\]"):
        store.delete_many(u64(1), u64(1, 2))


def test_a_bundle_fills_it_and_reads_as_from_its_tables(
    make_store: MakeStore, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writable, "CHUNK", 13)
    bundle = Bundle.open(toy_bundle)
    tables, store = MmapStore(bundle.table_paths), make_store()
    assert fill_from(store, bundle.table_paths, bundle.schema.table_by_name) == 160
    assert fill_from(store, bundle.table_paths) == 0
    for file in tables.files.values():
        assert file.number is not None
        dim = file.rows.shape[1]
        asked = np.append(file.keys[::-1], make_keys(file.number, u64(999)))
        for got, wanted in zip(
            astuple(store.get_many(asked, dim))[:5], astuple(tables.get_many(asked, dim))[:5], strict=True
        ):
            np.testing.assert_array_equal(got, wanted)
    assert fill_from(store, bundle.table_paths, version=2) == 160


def test_many_keys_and_many_batches(store: WritableStore) -> None:
    """Enough for every way a store grows, with new keys in between old ones."""
    rng = np.random.default_rng(0)
    keys, truth = rng.permutation(6000).astype(np.uint64) * np.uint64(3), {}
    for version, part in enumerate(np.split(np.concatenate([keys, keys[:3000]]), 9), start=1):
        values = rng.integers(0, 1000, part.size).astype(np.float32)
        assert store.put_many(part, rows_of(*values), np.full(part.size, version, np.uint64)) == part.size
        truth |= dict(zip(part.tolist(), zip(values.tolist(), [version] * part.size, strict=True), strict=True))
    asked = np.arange(18_100, dtype=np.uint64)
    assert states(store, *asked.tolist()) == [truth.get(key, (None, 0)) for key in asked.tolist()]


def test_threads_that_write_the_same_keys_leave_the_newest(store: WritableStore) -> None:
    keys, failures = np.arange(50, dtype=np.uint64), []

    def write(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for version in rng.permutation(40) * 4 + seed:
                some = rng.permutation(keys) if version < 156 else keys
                store.put_many(some, rows_of(*(some + version).astype(float)), np.full(50, version, np.uint64))
                got = store.get_many(keys, DIM)
                np.testing.assert_array_equal(got.rows[:, 0], (keys + got.versions) * got.found)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert states(store, *keys.tolist()) == [(key + 159.0, 159) for key in range(50)]


@pytest.mark.parametrize(("dtype", "digits"), [("float32", 0), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_rows_may_be_kept_in_less(make_store: MakeStore, dtype: str, digits: float) -> None:
    store = make_store(dtype=dtype)
    rows = np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32)
    keys = np.arange(20, dtype=np.uint64)
    store.put_many(keys, rows, np.ones(20, np.uint64))
    np.testing.assert_allclose(store.get_many(keys, 7).rows, rows, rtol=digits, atol=1e-7 if digits else 0)
