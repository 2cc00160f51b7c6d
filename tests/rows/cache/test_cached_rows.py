"""What `CachedRows` serves, asks, keeps and counts, against a store that is a formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from formula_store import DIM, KNOWN, WIDE, A, B, Formula, expected, fail, keys_of, rows_of, rows_over
from row_questions import look_up, pool

from pepnet_infer import StoreError, _kernels
from pepnet_infer.rows.protocols import RowRequest
from pepnet_infer.schema.ids import MISSING_KEY, make_keys


@pytest.fixture
def store() -> Formula:
    return Formula()


def test_misses_are_asked_once_and_kept(store: Formula) -> None:
    rows = rows_over(store)
    keys = keys_of(A, 5, 7, 5, 5000, 7, 5000, 8)
    out = np.full((7, DIM + 2), 9.0, np.float32)
    for _ in range(3):
        assert look_up(rows, "a", keys, out[:, 1:-1]) == 2
        np.testing.assert_array_equal(out[:, 1:-1], expected("a", keys))
        assert (out[:, [0, -1]] == 9).all()
        out[:, 1:-1] = 0
    assert [sorted(asked.tolist()) for asked in store.asked] == [sorted(np.unique(keys).tolist())]
    stats = rows.stats()
    assert stats["tables"]["a"] == {
        "keys": 21,
        "hits": 10,
        "misses": 7,
        "negative_hits": 4,
        "defaults": 6,
        "unavailable": 0,
    }
    assert stats["total"] == stats["tables"]["a"]
    assert stats["defaults"] == {"absent": 6, "late": 0, "fault": 0, "deferred": 0, "dropped": 0, "damaged": 0}
    assert (stats["store"]["calls"], stats["store"]["keys"], stats["flights"]) == (1, 4, 0)
    assert stats["widths"][str(DIM)]["inserted"] == 3
    assert stats["widths"][str(DIM)]["negatives"] == 1


def test_a_batch_asks_once_a_width_whatever_the_fields(store: Formula) -> None:
    rows = rows_over(store)
    out, wide, bags = np.empty((3, DIM), np.float32), np.empty((2, 11), np.float32), np.empty((2, DIM), np.float32)
    requests = [
        RowRequest("item", "a", keys_of(A, 1, 2, 1), out),
        RowRequest("shop", "wide", keys_of(WIDE, 1, 2), wide),
        RowRequest("history", "a", keys_of(A, 2, 3, 9999), bags, np.array([0, 2, 3]), "mean"),
        RowRequest("other", "b", keys_of(B, 1), out[:1].copy()),
    ]
    assert rows.answer(requests) == [(0, 0), (0, 0), (1, 0), (0, 0)]
    assert [len(asked) for asked in store.asked] == [5, 2]
    np.testing.assert_array_equal(out, rows_of(requests[0].keys))
    np.testing.assert_array_equal(wide, rows_of(requests[1].keys, 11))
    np.testing.assert_array_equal(requests[3].out, rows_of(keys_of(B, 1)))
    a = rows_of(keys_of(A, 2, 3))
    np.testing.assert_array_equal(bags, [(a[0] + a[1]) / np.float32(2), np.full(DIM, -1)])
    assert rows.answer(requests) == [(0, 0), (0, 0), (1, 0), (0, 0)]
    fields = rows.stats()["fields"]
    assert fields["item"] == {"keys": 6, "hits": 3, "misses": 3, "negative_hits": 0, "defaults": 0, "unavailable": 0}
    assert fields["history"] == {"keys": 6, "hits": 2, "misses": 3, "negative_hits": 1, "defaults": 2, "unavailable": 0}
    assert rows.stats()["tables"]["a"]["keys"] == 12
    assert look_up(rows, "a", np.empty(0, np.uint64), np.empty((0, DIM), np.float32)) == 0


@pytest.mark.parametrize("pooling", ["mean", "sum"])
@pytest.mark.parametrize("warm", [0, 300, KNOWN])
def test_bags_have_the_bits_of_one_by_one(store: Formula, pooling: Any, warm: int) -> None:
    rows = rows_over(store, capacity=200 << 10)
    rows.prefetch("a", np.arange(warm))
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 30, 200)
    offsets = np.concatenate([[2], 2 + lengths.cumsum()]).astype(np.int64)  # two keys before, three after all bags
    keys = make_keys(A, rng.integers(0, KNOWN + 50, int(offsets[-1]) + 3).astype(np.uint64))
    out = np.empty((200, DIM), np.float32)
    unknown = pool(rows, "a", keys, offsets, pooling, out)
    assert unknown == int((expected("a", keys[2:-3]) == -1).all(axis=1).sum())
    single = expected("a", keys)
    for bag in range(200):
        total = np.zeros(DIM, np.float32)
        for at in range(offsets[bag], offsets[bag + 1]):
            total += single[at]
        if pooling == "mean" and lengths[bag] > 1:
            total /= np.float32(lengths[bag])
        np.testing.assert_array_equal(out[bag], total)


def test_the_key_of_no_id_is_never_asked_for(store: Formula) -> None:
    rows, out = rows_over(store), np.empty((3, DIM), np.float32)
    keys = np.array([MISSING_KEY, keys_of(A, 4)[0], MISSING_KEY], np.uint64)
    for _ in range(2):
        assert look_up(rows, "a", keys, out) == 2
        np.testing.assert_array_equal(out, [[-1] * DIM, rows_of(keys[1:2])[0], [-1] * DIM])
    assert look_up(rows, "b", keys[:1], out[:1]) == 1
    assert (out[0] == -2).all()  # each table's own default row
    assert [asked.tolist() for asked in store.asked] == [[int(keys[1])]]


def test_a_negative_entry_ends_with_its_time_or_an_update(store: Formula) -> None:
    rows, out = rows_over(store, negative_ttl=60.0), np.empty((1, DIM), np.float32)
    rows.cache("a").core.set_time(1000.0)
    key = keys_of(A, KNOWN + 1)
    assert [look_up(rows, "a", key, out) for _ in range(3)] == [1, 1, 1]
    assert len(store.asked) == 1
    rows.cache("a").core.set_time(1062.0)
    assert look_up(rows, "a", key, out) == 1
    assert len(store.asked) == 2
    assert rows.apply("a", [KNOWN + 1], np.ones((1, DIM), np.float32), np.array([1], np.uint64)) == 1
    assert look_up(rows, "a", key, out) == 0
    assert (out == 1).all()
    assert rows.delete("a", key, np.array([2], np.uint64)) == 1
    assert look_up(rows, "a", key, out) == 1
    assert (out == -1).all()
    assert len(store.asked) == 2


@pytest.mark.parametrize("admission", [0.0, 1.0])
def test_rows_that_are_not_kept_are_served_all_the_same(store: Formula, admission: float) -> None:
    rows = rows_over(store, capacity=80 << 10, admission=admission)
    out, rng = np.empty((500, 11), np.float32), np.random.default_rng(1)
    for _ in range(20):
        keys = make_keys(WIDE, rng.integers(0, KNOWN + 10, 500).astype(np.uint64))
        assert look_up(rows, "wide", keys, out) == int((keys >= keys_of(WIDE, KNOWN)).sum())
        np.testing.assert_array_equal(out, expected("wide", keys, 11))
    width = rows.stats()["widths"]["11"]
    assert width["rows"] <= width["capacity_rows"] < 900
    assert (width["rows"] == 0) == (admission == 0.0)
    assert width["rejected_admission" if admission == 0.0 else "evicted_policy"] > 0


@pytest.mark.parametrize("policy", ["lru", "gset", "lfu"])
def test_what_is_asked_for_by_name_is_admitted_for_certain(store: Formula, policy: Any) -> None:
    rows = rows_over(store, policy=policy, admission=0.0)
    assert rows.prefetch("a", np.arange(50)) == 50
    keys = keys_of(A, *range(50, 80))
    assert rows.warm({"a": (keys, np.ones(len(keys), np.float32))}) == 30
    assert rows.stats()["rows"] == 80
    out = np.empty((1, DIM), np.float32)
    look_up(rows, "a", keys_of(A, 99), out)
    assert rows.stats()["rows"] == 80
    np.testing.assert_array_equal(out, rows_of(keys_of(A, 99)))


def test_prefetch_brings_what_is_lacking(store: Formula) -> None:
    rows = rows_over(store)
    assert rows.prefetch("a", [1, 2, 3, 5000]) == 3
    assert rows.prefetch("a", keys_of(A, 3, 4, 4)) == 3
    assert [asked.tolist() for asked in store.asked] == [keys_of(A, 1, 2, 3, 5000).tolist(), keys_of(A, 4).tolist()]
    assert rows.stats()["total"]["keys"] == 0
    assert rows.prefetch("b", np.empty(0, np.int32)) == 0
    out = np.empty((4, DIM), np.float32)
    assert look_up(rows, "a", keys_of(A, 1, 2, 3, 4), out) == 0
    assert len(store.asked) == 2
    assert rows.feedback("a", [1, 9], np.array([True, True])) == 1
    store.before = fail(StoreError("down"))
    with pytest.raises(StoreError, match="down"):
        rows.prefetch("a", [77])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1.5], r"a: expected a vector of integer ids, got float64 \[1\]"),
        (["x"], "a: expected a vector of integer ids, got <U1"),
        ([[1]], r"a: expected a vector of integer ids, got int64 \[1, 1\]"),
        ([3, -1], r"a: expected ids below 2\^48 or keys of table number 3, got -1"),
        ([int(keys_of(B, 1)[0])], r"a: expected ids below 2\^48 or keys of table number 3, got 2533274790395905"),
        ([1 << 63], r"a: expected ids below 2\^48"),
    ],
)
def test_ids_of_another_kind_are_refused(store: Formula, ids: list[object], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        rows_over(store).prefetch("a", ids)


def test_a_table_that_is_not_there_is_an_error(store: Formula) -> None:
    rows = rows_over(store)
    for call in (
        lambda: look_up(rows, "c", keys_of(A, 1), np.empty((1, DIM), np.float32)),
        lambda: rows.prefetch("c", [1]),
        lambda: rows.feedback("c", [1], np.array([True])),
    ):
        with pytest.raises(StoreError, match="table: expected one of a, b, wide, got 'c'"):
            call()
    with pytest.raises(ValueError, match=r"out: expected \[1, 6\], got float32 \[1, 5\]"):
        look_up(rows, "a", keys_of(A, 1), np.empty((1, 5), np.float32))
    assert store.asked == []


def test_what_serves_rows_is_strict_with_arrays() -> None:
    rows, out, default = np.ones((2, 3), np.float32), np.zeros((4, 3), np.float32), np.full(3, 7, np.float32)
    at = np.array([0, 3, 9], np.int64)
    assert _kernels.serve(rows, np.array([1, -1, 0], np.int64), at, default, out) == 1
    np.testing.assert_array_equal(out[:, 0], [1, 0, 0, 7])  # row 9 is not there, and not written
    with pytest.raises(ValueError, match=r"sources: expected 3, one a position, got int64 \[2\]"):
        _kernels.serve(rows, at[:2], at, default, out)
    with pytest.raises(TypeError, match="positions: expected int64, got uint64"):
        _kernels.serve(rows, at, at.astype(np.uint64), default, out)
    with pytest.raises(TypeError, match="rows: expected float32, got float16"):
        _kernels.serve(rows.astype(np.float16), at, at, default, out)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"default_row: expected \[3\], got float32 \[2\]"):
        _kernels.serve(rows, at, at, default[:2], out)
    with pytest.raises(ValueError, match=r"out: expected \[4, 3\], got float32 \[4, 2\]"):
        _kernels.serve(rows, at, at, default, out[:, :2])
    table = _kernels.FlightTable()
    for call in (lambda: table.land(at, 1), lambda: table.touch(at)):
        with pytest.raises(TypeError, match=r"keys: expected uint64, got int64 \[3\]"):
            call()
    with pytest.raises(TypeError, match="keys: expected uint64"):
        _kernels.distinct(at)  # type: ignore[arg-type]
    assert len(_kernels.distinct(np.empty(0, np.uint64))[0]) == 0
