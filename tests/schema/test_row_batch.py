"""The one record of rows: what is filled in, taken, joined and refused."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from pepnet_infer.schema.row_batch import RowBatch

COLUMNS = ("rows", "found", "versions", "scores", "expires", "keys")
DIM = 3


def batch(*ids: int) -> RowBatch:
    """Returns rows whose every column says which id it is of; odd ids have no row."""
    keys = np.array(ids, np.uint64)
    return RowBatch(
        np.repeat(keys.astype(np.float32)[:, None], DIM, axis=1),
        keys % 2 == 0,
        keys + np.uint64(100),
        keys.astype(np.float32) / 10,
        keys.astype(np.float64) * 10,
        None,
        keys,
        np.ones(DIM, np.float32),
    )


def assert_equal(got: RowBatch, expected: RowBatch) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), name)


def test_columns_that_are_left_out_say_that_nothing_is_known() -> None:
    rows = np.ones((2, DIM), np.float32)
    got = RowBatch.of(rows)
    assert got.rows is rows
    assert got.found.tolist() == [True, True]
    assert got.versions.tolist() == [0, 0]
    assert np.isnan(got.scores).all()
    assert np.isinf(got.expires).all()
    assert (got.damaged, got.keys.size, got.default) == (None, 0, None)
    assert RowBatch.of(rows, versions=7).versions.tolist() == [7, 7]
    gone = RowBatch.nothing(2, DIM, keys=np.arange(2, dtype=np.uint64), version=9)
    assert (gone.found.any(), gone.rows.any(), gone.versions.tolist(), gone.keys.tolist()) == (
        False,
        False,
        [9, 9],
        [0, 1],
    )
    assert got.misfit(2, DIM) is gone.misfit(2, DIM) is None


@pytest.mark.parametrize("at", [slice(1, 3), np.array([1, 2]), np.array([False, True, True, False])], ids=str)
def test_rows_are_taken_with_all_of_their_columns(at: slice | np.ndarray) -> None:
    damaged = replace(batch(4, 5, 6, 7), damaged=np.array([0, 1, 0, 1], np.bool_))
    got = damaged.take(at)
    assert_equal(got, batch(5, 6))
    assert got.damaged is not None
    assert got.damaged.tolist() == [True, False]
    assert got.default is None
    assert batch(4, 5, 6, 7).take(at).damaged is None
    without_keys = RowBatch.nothing(4, DIM).take(at)
    assert (len(without_keys.rows), without_keys.keys.size) == (2, 0)


def test_batches_are_joined_and_ordered_by_their_keys() -> None:
    parts = [batch(8, 2), batch(), batch(5)]
    assert_equal(RowBatch.concat(parts), batch(8, 2, 5))
    assert_equal(RowBatch.concat(parts).ordered(), batch(2, 5, 8))
    one = batch(1, 2)
    assert RowBatch.concat([one]).rows is one.rows
    assert RowBatch.concat([one]).default is None
    assert RowBatch.concat([one], copy=True).rows is not one.rows
    damaged = replace(batch(3), damaged=np.ones(1, np.bool_))
    assert RowBatch.concat([one, damaged]).damage().tolist() == [False, False, True]


def test_a_part_is_put_over_some_rows() -> None:
    whole = RowBatch.nothing(3, DIM, keys=np.array([6, 8, 2], np.uint64))
    assert_equal(whole.put(np.array([2, 0]), batch(2, 6)).take(np.array([0, 2])), batch(6, 2))
    assert whole.found.tolist() == [True, False, True]
    got = whole.put(np.array([1]), replace(batch(8), damaged=np.ones(1, np.bool_)))
    assert got.damage().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("rows", np.zeros((2, 4), np.float32), "rows: expected float32 [2, 3], got float32 [2, 4]"),
        ("rows", [[0.0] * 3] * 2, "rows: expected float32 [2, 3], got list"),
        ("rows", np.zeros((2, 3), ">f4"), "rows: expected float32 [2, 3], got >f4 [2, 3]"),
        ("found", np.zeros(2, np.uint8), "found: expected bool [2], got uint8 [2]"),
        ("versions", np.zeros(2, np.int64), "versions: expected uint64 [2], got int64 [2]"),
        ("scores", np.zeros(3, np.float32), "scores: expected float32 [2], got float32 [3]"),
        ("expires", np.zeros((2, 1)), "expires: expected float64 [2], got float64 [2, 1]"),
        ("damaged", np.zeros(1, np.bool_), "damaged: expected bool [2], got bool [1]"),
        ("keys", np.zeros(1, np.uint64), "keys: expected uint64 [2], got uint64 [1]"),
        ("default", np.zeros(2, np.float32), "default: expected float32 [3], got float32 [2]"),
    ],
)
def test_a_column_of_another_type_or_shape_is_named(column: str, value: object, message: str) -> None:
    assert replace(batch(1, 2), **{column: value}).misfit(2, DIM) == message  # type: ignore[arg-type]


def test_a_batch_from_another_process_is_the_same() -> None:
    got = pickle.loads(pickle.dumps(RowBatch.nothing(2, DIM)))
    assert got.misfit(2, DIM) is None
    assert got.keys.size == 0
