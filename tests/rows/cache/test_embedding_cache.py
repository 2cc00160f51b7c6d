"""`EmbeddingCache` as a caller sees it; what each policy does is tested where the core is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pepnet_infer import ConfigError, EmbeddingCache, StoreError

DIM = 5


def keys_of(*ids: int) -> np.ndarray:
    return np.array(ids, np.uint64)


def rows_of(keys: np.ndarray, version: int = 0) -> np.ndarray:
    """A function of key and version, every number of it."""
    seed = keys.astype(np.float64) * 7 + version * 1000
    return (seed[:, None] + np.arange(DIM)).astype(np.float32)


def test_rows_that_are_there_are_written_and_others_left() -> None:
    cache = EmbeddingCache(dim=DIM, capacity_bytes="1MiB", policy="lru", dtype="float32")
    known = keys_of(0, 1, 2**64 - 1, 77)
    assert cache.insert(known, rows_of(known)) == 4
    asked = keys_of(77, 5, 0, 2**64 - 1, 77)
    out = np.full((5, DIM + 4), -1.0, np.float32)
    found = cache.lookup(asked, out[:, 2 : 2 + DIM])
    assert found.dtype == np.bool_
    assert found.tolist() == [True, False, True, True, True]
    np.testing.assert_array_equal(out[found, 2 : 2 + DIM], rows_of(asked[found]))
    assert (out[1] == -1).all()
    assert (out[:, [0, 1, -2, -1]] == -1).all()
    stats = cache.stats()
    assert (stats["hits"], stats["misses"], stats["inserted"], stats["rows"]) == (4, 1, 4, 4)
    assert stats["occupancy"] == 4 / cache.capacity_rows
    assert (stats["dim"], stats["dtype"], stats["policy"]) == (DIM, "float32", "lru")
    assert cache.memory_bytes <= 1 << 20
    cache.clear()
    assert not cache.lookup(asked, out[:, 2 : 2 + DIM]).any()


def test_the_newest_version_wins_whatever_the_order() -> None:
    cache = EmbeddingCache(DIM, 1 << 20)
    key, out = keys_of(4), np.empty((1, DIM), np.float32)

    def apply(version: int) -> int:
        return cache.apply(key, rows_of(key, version), keys_of(version))

    assert [apply(version) for version in (3, 2, 3, 5, 4)] == [1, 0, 0, 1, 0]
    cache.lookup(key, out)
    np.testing.assert_array_equal(out, rows_of(key, 5))
    assert cache.insert(key, rows_of(key, 4), versions=keys_of(4)) == 0
    assert cache.insert(key, rows_of(key)) == 0  # without a version: 0
    assert cache.delete(key, keys_of(4)) == 0
    assert cache.delete(key, keys_of(6)) == 1
    assert not cache.lookup(key, out).any()
    assert apply(6) == 0
    assert apply(7) == 1
    stats = cache.stats()
    assert stats["updates_applied"] == 4
    assert stats["updates_stale"] == 5


def test_scores_and_expiry_come_with_rows_or_not_at_all() -> None:
    cache = EmbeddingCache(DIM, 1 << 20, "gset", fields=[{"table": 0, "ttl": 100.0}])
    cache.core.set_time(1000.0)
    keys = keys_of(1, 2, 3)
    scores, expires = np.array([2.0, np.nan, 0.5], np.float32), np.array([np.inf, 1010.0, 2000.0])
    cache.insert(keys, rows_of(keys), scores=scores, expires=expires)
    infos = cache.core.peek(keys)
    assert infos["scored"].tolist() == [True, False, True]
    np.testing.assert_allclose(infos["score"][[0, 2]], [2.0, 0.5], rtol=0.01)
    np.testing.assert_allclose(infos["expires"], [1100.0, 1010.0, 2000.0], rtol=0.001)
    cache.core.set_time(1050.0)
    out = np.empty((3, DIM), np.float32)
    assert cache.lookup(keys, out).tolist() == [True, False, True]
    assert cache.feedback(keys_of(1, 1, 9), np.array([True, False, True])) == 2
    assert float(cache.core.peek(keys_of(1))["score"][0]) > 2.3  # r·β + β on top of 2


def test_a_snapshot_comes_back(tmp_path: Path) -> None:
    cache, keys = EmbeddingCache(DIM, 1 << 20, "gset"), np.arange(100, dtype=np.uint64)
    cache.insert(keys, rows_of(keys), np.ones(100, np.float32), keys)
    assert cache.save(tmp_path / "c").rows == 100
    other = EmbeddingCache(DIM, 1 << 20, "gset")
    assert other.load(tmp_path / "c").rows == 100
    out = np.empty((100, DIM), np.float32)
    assert other.lookup(keys, out).all()
    np.testing.assert_array_equal(out, rows_of(keys))
    with pytest.raises(StoreError, match="expected rows of 6 float32 as in the cache, got rows of 5 float32"):
        EmbeddingCache(6, 1 << 20).load(tmp_path / "c")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "LRU"}, "policy: expected one of gset, lfu, lru, s3fifo, sieve, got 'LRU'"),
        ({"dtype": "float"}, "dtype: expected one of bfloat16, float16, float32, int8, got 'float'"),
        ({"capacity_bytes": 100}, "cache: capacity_bytes: expected at least "),
        ({"capacity_bytes": "lots"}, "capacity_bytes: expected bytes, as an integer from 1 or text such as '512MiB'"),
        ({"dim": 0}, "cache: dim: expected 1 to 65536"),
        ({"dim": -3}, "cache: "),
        ({"beta": 1.0}, "cache: beta: expected between 0 and 1"),
        ({"fields": [{"share": 0.5}]}, "cache: fields: expected a table in every rule"),
    ],
)
def test_what_a_cache_cannot_be_is_a_config_error(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbeddingCache(**({"dim": DIM, "capacity_bytes": 1 << 20} | options))  # type: ignore[arg-type]


def test_arrays_are_checked_and_never_converted() -> None:
    cache = EmbeddingCache(DIM, 1 << 20)
    keys, rows = keys_of(1, 2), rows_of(keys_of(1, 2))
    with pytest.raises(TypeError, match=r"keys: expected uint64, got int64 \[2\]"):
        cache.lookup(keys.astype(np.int64), rows)
    with pytest.raises(TypeError, match=r"out: expected float32, got float64 \[2, 5\]"):
        cache.lookup(keys, rows.astype(np.float64))
    with pytest.raises(ValueError, match=r"out: expected \[2, 5\], got float32 \[2, 4\]"):
        cache.lookup(keys, np.empty((2, 4), np.float32))
    frozen = rows.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out: expected writeable"):
        cache.lookup(keys, frozen)
    with pytest.raises(ValueError, match="rows: expected"):
        cache.insert(keys, rows[:1])
    with pytest.raises(TypeError, match="versions: expected uint64, got int64"):
        cache.insert(keys, rows, versions=np.array([1, 2]))
    with pytest.raises(TypeError, match="scores: expected float32, got float64"):
        cache.insert(keys, rows, scores=np.zeros(2))
    with pytest.raises(ValueError, match=r"expires: expected \[2\]"):
        cache.insert(keys, rows, expires=np.zeros(3))
    with pytest.raises(TypeError, match="keys: expected uint64"):
        cache.apply(keys.astype(np.int64), rows, keys)
    assert cache.stats()["rows"] == 0
