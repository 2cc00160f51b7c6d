"""Exact policies and MIN equal libCacheSim hit for hit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from pepnet_infer import _kernels

pytestmark = pytest.mark.parity

libcachesim = pytest.importorskip("libcachesim")

Keys = npt.NDArray[np.uint64]
Hits = npt.NDArray[np.bool_]
#: lfu without decay: all within one interval.
THEIRS = {"lru": "LRU", "lfu": "LFU", "sieve": "Sieve", "s3fifo": "S3FIFO"}
FOREVER = 2**62


def _ours(policy: str, keys: Keys, rows: int) -> Hits:
    cache = _kernels.studies.ExactCache(rows, policy)
    assert cache.capacity_rows == rows
    hits = np.zeros(len(keys), np.bool_)
    assert cache.replay(keys, hits) == hits.sum()
    return hits


def _theirs(name: str, keys: Keys, rows: int, following: list[int] | None = None) -> Hits:
    cache: Any = getattr(libcachesim, name)(rows, hashpower=18)
    request: Any = libcachesim.Request()
    request.obj_size = 1
    hits = np.zeros(len(keys), np.bool_)
    for i, key in enumerate(keys.tolist()):
        request.obj_id = key
        if following is not None:
            request.next_access_vtime = following[i]
        hits[i] = cache.get(request)
    return hits


def _next_accesses(keys: Keys) -> list[int]:
    following, last = [FOREVER] * len(keys), dict[int, int]()
    for i in range(len(keys) - 1, -1, -1):
        following[i] = last.get(int(keys[i]), FOREVER)
        last[int(keys[i])] = i
    return following


def _zipf(seed: int, accesses: int, ids: int) -> Keys:
    """Zipf's law over ids, with a scan through new ones now and then."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, ids + 1) ** 0.9
    keys = rng.choice(rng.permutation(ids), accesses, p=weights / weights.sum()).astype(np.uint64) + np.uint64(1)
    for start in range(accesses // 3, accesses - 500, accesses // 3):
        keys[start : start + 500] = ids + start + np.arange(500, dtype=np.uint64)
    return keys


@pytest.mark.parametrize("policy", THEIRS)
@pytest.mark.parametrize("rows", [20, 217, 2000])
def test_zipf(policy: str, rows: int) -> None:
    keys = _zipf(rows, 40_000, 8_000)
    hits = _ours(policy, keys, rows)
    np.testing.assert_array_equal(hits, _theirs(THEIRS[policy], keys, rows))
    assert 0.01 < hits.mean() < 0.9


@pytest.mark.parametrize("rows", [1, 20, 217, 2000])
def test_min(rows: int) -> None:
    keys = _zipf(rows, 40_000, 8_000)
    hits = np.zeros(len(keys), np.bool_)
    assert _kernels.studies.belady(keys, rows, hits) == hits.sum() >= _ours("lru", keys, rows).sum()
    np.testing.assert_array_equal(hits, _theirs("Belady", keys, rows, _next_accesses(keys)))


@pytest.mark.skipif("PEPNET_TRACES" not in os.environ, reason="PEPNET_TRACES names no folder of traces")
@pytest.mark.parametrize("policy", THEIRS)
def test_real_traces(policy: str) -> None:
    traces = sorted(Path(os.environ["PEPNET_TRACES"]).glob("*.parquet"))
    assert traces, "PEPNET_TRACES: expected parquet files"
    for trace in traces:
        keys = pq.read_table(trace, columns=["key"])["key"].to_numpy().astype(np.uint64)[:400_000]
        rows = max(20, len(np.unique(keys)) // 10)
        np.testing.assert_array_equal(
            _ours(policy, keys, rows), _theirs(THEIRS[policy], keys, rows), err_msg=str(trace)
        )


def test_another_extension_leaves_our_errors_alone() -> None:
    """libcachesim catches std::exception for the whole process; ours are still what they were."""
    with pytest.raises(TypeError, match="keys: expected uint64, got int64"):
        _kernels.studies.belady(np.zeros(3, np.int64), 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beta: expected between 0 and 1"):
        _kernels.RowCache(1, 1 << 20, beta=2.0)
