"""Taking, repeating and joining encoded rows."""

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


def test_repeat(toy: Features) -> None:
    twice = toy.select([4, 7]).repeat(3)
    assert [row_of(twice, i) for i in range(6)] == [row_of(toy, i) for i in (4, 4, 4, 7, 7, 7)]
    assert toy.repeat(0).num_rows == 0


def test_merge(toy: Features) -> None:
    users = Features(40, {"user_id": toy.ids["user_id"]}, {"watched": toy.bags["watched"]})
    items = Features(40, {"video_id": toy.ids["video_id"]}, {}, {"age": toy.dense["age"]})
    both = users.merge(items)
    assert (set(both.ids), set(both.bags), set(both.dense)) == ({"user_id", "video_id"}, {"watched"}, {"age"})
    with pytest.raises(ValueError, match="expected 40 rows to merge, got 2"):
        users.merge(items.select([0, 1]))
