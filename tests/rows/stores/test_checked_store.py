from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest

from pepnet_infer.errors import StoreError
from pepnet_infer.rows.stores.checked_answers import ask
from pepnet_infer.rows.stores.memory import MemoryStore
from pepnet_infer.schema.row_batch import RowBatch

KEYS = np.arange(4, dtype=np.uint64)


class Answers:
    """A store that answers one thing, or raises it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked = 0

    def get_many(self, keys: Any, dim: int) -> Any:
        self.asked += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def test_a_whole_answer_goes_through_untouched() -> None:
    store = MemoryStore()
    store.put_many(KEYS[:2], np.full((2, 3), np.nan, np.float32), KEYS[:2])
    for keys in (KEYS, KEYS[:0]):
        for got, wanted in zip(astuple(ask(store, keys, 3))[:5], astuple(store.get_many(keys, 3))[:5], strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_a_store_that_changes_the_keys_it_is_given_changes_its_own() -> None:
    """As one that takes the table's number off them in place: rows would be kept under ids of another table."""

    class Ids(Answers):
        def get_many(self, keys: Any, dim: int) -> Any:
            keys &= np.uint64(1)
            return self.answer

    keys = KEYS.copy()
    ask(Ids(RowBatch.nothing(4, 3)), keys, 3)
    np.testing.assert_array_equal(keys, KEYS)


def good() -> RowBatch:
    return RowBatch.nothing(4, 3)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "Answers: expected RowBatch, got NoneType"),
        ((np.zeros((4, 3), np.float32), np.zeros(4, np.bool_)), "expected RowBatch, got tuple"),
        (RowBatch.nothing(3, 3), r"rows: expected float32 \[4, 3\], got float32 \[3, 3\]"),
        (RowBatch.nothing(4, 2), r"rows: expected float32 \[4, 3\], got float32 \[4, 2\]"),
        (replace(good(), rows=np.zeros((4, 3))), r"rows: expected float32 \[4, 3\], got float64 \[4, 3\]"),
        (replace(good(), rows=np.zeros((4, 3), ">f4")), r"rows: expected float32 \[4, 3\], got >f4 \[4, 3\]"),
        (replace(good(), rows=np.zeros((4, 6), np.float32)[:, ::2]), r"rows: .* without gaps, got one with strides"),
        (replace(good(), rows=[[0.0] * 3] * 4), r"rows: expected float32 \[4, 3\], got list"),
        (replace(good(), found=np.zeros(3, np.bool_)), r"found: expected bool \[4\], got bool \[3\]"),
        (replace(good(), found=np.zeros(4, np.uint8)), r"found: expected bool \[4\], got uint8 \[4\]"),
        (replace(good(), versions=np.zeros(4, np.int64)), r"versions: expected uint64 \[4\], got int64 \[4\]"),
        (replace(good(), scores=np.zeros(4)), r"scores: expected float32 \[4\], got float64 \[4\]"),
        (replace(good(), expires=np.zeros((4, 1))), r"expires: expected float64 \[4\], got float64 \[4, 1\]"),
        (replace(good(), expires=np.array([0, 1, np.nan, 2])), r"expires\[2\]: expected Unix seconds or inf, got NaN"),
    ],
)
def test_anything_else_is_refused(answer: Any, message: str) -> None:
    store = Answers(answer)
    with pytest.raises(StoreError, match=message):
        ask(store, KEYS, 3)
    assert 1 <= store.asked <= 5  # in parts too, where none of them is any better


def test_any_error_becomes_a_store_error_with_its_cause() -> None:
    store = Answers(KeyError("shard 3"))
    with pytest.raises(StoreError, match="Answers: expected an answer, got KeyError: 'shard 3'") as raised:
        ask(store, KEYS, 3)
    assert isinstance(raised.value.__cause__, KeyError)
    own = StoreError("down")
    with pytest.raises(StoreError, match=r"^down$") as raised:
        ask(Answers(own), KEYS, 3)
    assert raised.value is own
    with pytest.raises(KeyboardInterrupt):
        ask(Answers(KeyboardInterrupt()), KEYS, 3)
    assert 1 <= store.asked <= 5
    away = Answers(ConnectionError("away"))
    with pytest.raises(StoreError, match="ConnectionError: away"):
        ask(away, KEYS, 3)
    assert away.asked == 1  # a server that is away is not asked for each half


class Stacked:
    """A store that cannot put rows of different widths beside each other."""

    def __init__(self, rows: dict[int, np.ndarray]) -> None:
        self.rows = rows

    def get_many(self, keys: np.ndarray, dim: int) -> RowBatch:
        rows = np.stack([self.rows[int(key)] for key in keys]) if len(keys) else np.empty((0, dim), np.float32)
        return replace(RowBatch.nothing(len(keys), dim), rows=rows, found=np.ones(len(keys), np.bool_))


@pytest.mark.parametrize("wrong", [(0,), (99,), (41, 42), (3, 70)])
def test_a_row_of_another_width_costs_its_own_key_only(wrong: tuple[int, ...]) -> None:
    rows = {key: np.full(2 if key in wrong else 3, key, np.float32) for key in range(100)}
    keys = np.arange(100, dtype=np.uint64)
    got = ask(Stacked(rows), keys, 3)
    assert got.damaged is not None
    assert np.flatnonzero(got.damaged).tolist() == list(wrong)
    np.testing.assert_array_equal(got.found, ~got.damaged)
    np.testing.assert_array_equal(got.rows[got.found], np.repeat(keys, 3).reshape(100, 3)[got.found])


def test_what_a_store_says_is_damaged_is_not_found() -> None:
    both = np.array([True, False, True, False])
    said = replace(good(), found=np.ones(4, np.bool_), damaged=both)
    got = ask(Answers(said), KEYS, 3)
    np.testing.assert_array_equal(got.found, ~both)
    np.testing.assert_array_equal(got.damaged, both)
    assert said.found.all()  # the store's own arrays are left alone
