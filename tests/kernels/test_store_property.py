"""Random tables and questions against plain Python and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pepnet_infer._kernels import KeyIndex, Table, pool

pytestmark = pytest.mark.property

KEY = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 40), st.integers(2**64 - 20, 2**64 - 1))


def uint64(values: list[int]) -> Any:
    return np.array(values, dtype=np.uint64)


@settings(max_examples=150, deadline=None)
@given(keys=st.lists(KEY, unique=True, max_size=200), asked=st.lists(KEY, max_size=60))
def test_an_index_is_a_dict(keys: list[int], asked: list[int]) -> None:
    positions = {key: at for at, key in enumerate(keys)}
    index = KeyIndex(uint64(keys))
    assert index.find(uint64(asked + keys)).tolist() == [positions.get(key, -1) for key in asked + keys]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), dtype=st.sampled_from([np.float32, np.float16]), dim=st.integers(1, 70))
def test_lookup_and_pool_agree_with_float64(data: st.DataObject, dtype: Any, dim: int) -> None:
    keys = data.draw(st.lists(KEY, unique=True, min_size=1, max_size=30))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    rows, default = rng.normal(size=(len(keys), dim)).astype(dtype), rng.normal(size=dim).astype(np.float32)
    asked = data.draw(st.lists(st.one_of(st.sampled_from(keys), KEY), max_size=60))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(asked)), min_size=1, max_size=20)))
    pooling = data.draw(st.sampled_from(["mean", "sum"]))

    by_key = {key: rows[at].astype(np.float64) for at, key in enumerate(keys)}
    values = np.array([by_key.get(key, default.astype(np.float64)) for key in asked]).reshape(len(asked), dim)
    table = Table(uint64(keys), rows, default)
    out = np.full((len(asked), dim), np.nan, np.float32)
    assert table.lookup(uint64(asked), out) == sum(key not in by_key for key in asked)
    np.testing.assert_array_equal(out, values)

    bags = len(cuts) - 1
    pooled = np.full((bags, dim), np.nan, np.float32)
    inside = asked[cuts[0] : cuts[-1]]
    assert table.pool(uint64(asked), np.array(cuts), pooling, pooled) == sum(key not in by_key for key in inside)
    for bag in range(bags):
        some = values[cuts[bag] : cuts[bag + 1]]
        expected = some.sum(axis=0) / (max(len(some), 1) if pooling == "mean" else 1)
        bound = np.abs(some).sum(axis=0) * 2e-6
        assert (np.abs(pooled[bag] - expected) <= bound).all()


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(0, 12),
    offsets=hnp.arrays(np.int64, st.integers(0, 6), elements=st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 13)),
)
def test_no_offset_reads_outside(count: int, offsets: Any) -> None:
    rows, keys = np.arange(2 * count, dtype=np.float32).reshape(count, 2), np.arange(count, dtype=np.uint64)
    cuts = [0, *offsets.tolist(), count]
    right = len(offsets) > 0 and cuts == sorted(cuts)
    out = np.empty((max(len(offsets) - 1, 0), 2), np.float32)
    table = Table(keys, rows, np.zeros(2, np.float32))
    for call in (lambda: pool(rows, offsets, "sum", out), lambda: table.pool(keys, offsets, "sum", out)):
        try:
            call()
            assert right
        except ValueError:
            assert not right
