"""Taking encoded rows, and joining those that all have the fields of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.encode.features import Bag, Features
from pepnet_infer.schema.feature_schema import FeatureSchema


def as_lists(found: Bag) -> list[list[int]]:
    return [found.keys[a:b].tolist() for a, b in zip(found.offsets, found.offsets[1:], strict=False)]


@pytest.fixture
def toy(toy_schema: FeatureSchema, toy_batch: Callable[..., Any]) -> Features:
    return Encoder(toy_schema, {}).encode(read_columns(toy_batch(40, 1), toy_schema.columns))


def row_of(features: Features, row: int) -> list[object]:
    return [
        *(int(keys[row]) for keys in features.ids.values()),
        *(as_lists(found)[row] for found in features.bags.values()),
        *(float(values[row]) for values in features.dense.values()),
    ]


def test_the_toy_batch_is_what_it_says(toy: Features) -> None:
    lengths = [len(row) for row in as_lists(toy.bags["watched"])]
    assert min(lengths) == 0
    assert max(lengths) == 8
    assert set(toy.ids) == {"user_id", "video_id", "page"}


def test_select(toy: Features) -> None:
    mask = np.zeros(40, dtype=np.bool_)
    mask[[2, 5, 39]] = True
    for rows, expected in (
        ([3, 3, -1, 0], [3, 3, 39, 0]),
        (np.array([], dtype=np.int64), []),
        (mask, [2, 5, 39]),
        (slice(10, 20, 3), [10, 13, 16, 19]),
    ):
        picked = toy.select(rows)
        assert picked.num_rows == len(expected)
        assert [row_of(picked, i) for i in range(len(expected))] == [row_of(toy, i) for i in expected]
    with pytest.raises(IndexError):
        toy.select([40])


@pytest.mark.parametrize("count", [0, 3])
def test_with_shared(toy: Features, count: int) -> None:
    user = Features(1, {"user_id": toy.ids["user_id"][:1]}, {"watched": toy.bags["watched"].take(np.array([0]))})
    items = Features(40, {"video_id": toy.ids["video_id"]}, {}, {"age": toy.dense["age"]}).select(slice(count))
    both = items.with_shared(user)
    assert (both.num_rows, set(both.ids), set(both.bags)) == (count, {"user_id", "video_id"}, {"watched"})
    assert both.ids["user_id"].tolist() == user.ids["user_id"].tolist() * count
    assert as_lists(both.bags["watched"]) == as_lists(user.bags["watched"]) * count
    for mine, theirs in ((both.ids["video_id"], items.ids["video_id"]), (both.dense["age"], items.dense["age"])):
        np.testing.assert_array_equal(mine, theirs)
