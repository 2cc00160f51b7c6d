"""Bytes: the published formula, the bound that is never passed, and what the process really holds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pepnet_infer import _kernels

POLICIES = ("lru", "gset", "lfu", "sieve", "s3fifo")
DTYPES = ("float32", "float16", "bfloat16", "int8")
PAGE = 64 << 10
#: Bytes beside the buffer: the object itself, the row of zeros, the fields' rules.
OBJECT, RULE = 768, 48


def row_bytes(dtype: str, dim: int) -> int:
    return {"float32": 4 * dim, "float16": 2 * dim, "bfloat16": 2 * dim, "int8": 4 + dim}[dtype]


def set_bytes(policy: str, dtype: str, dim: int) -> int:
    """A line of 8 hot and 8 order words, and 8 slots: 16 bytes and the row, a multiple of 4; s3fifo: ghosts."""
    slot = -(-(16 + row_bytes(dtype, dim)) // 4) * 4
    return 64 + 8 * slot + (16 if policy == "s3fifo" else 0)


def buffer_bytes(sets: int, regions: int, each: int) -> int:
    """docs/cache.md: 64 places of readers of 128 bytes, the regions, the sets."""
    return 64 * 128 + 1408 * regions + sets * each


def rounded(size: int) -> int:
    return -(-size // PAGE) * PAGE


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_is_the_formulas(policy: _kernels.CachePolicy, dtype: str) -> None:
    for dim in (1, 2, 3, 7, 8, 16, 29, 40, 64, 67, 255, 1024):
        each = set_bytes(policy, dtype, dim)
        for capacity in (1 << 20, (1 << 20) + 12345, 3_333_333, 9 << 20, 50_000_001):
            for rules in (0, 3):
                fields: list[_kernels.FieldRule] = [{"table": table, "ttl": 5.0} for table in range(rules)]
                cache = _kernels.RowCache(dim, capacity, policy, dtype, fields=fields)
                beside = OBJECT + 4 * dim + RULE * rules
                assert cache.memory_bytes <= capacity
                assert cache.capacity_rows % 8 == 0
                sets, regions = cache.capacity_rows // 8, cache.parts
                assert sets % regions == 0
                # Regions are of one size: the sets that are left over may have called for one more.
                assert -(-sets // 511) <= regions <= -(-(sets + regions) // 511)
                assert cache.memory_bytes == rounded(buffer_bytes(sets, regions, each)) + beside
                # One more set a region does not fit.
                assert rounded(buffer_bytes(sets + regions, regions + 1, each)) + beside > capacity


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_metadata_is_at_most_24_bytes_a_row(policy: _kernels.CachePolicy, dtype: str) -> None:
    """26 with s3fifo, for its ghosts; 0.35 for locks and counters; and the fixed part, a page of 64 KiB at most."""
    for dim in (4, 40, 64, 300):
        cache = _kernels.RowCache(dim, 64 << 20, policy, dtype)
        held = cache.memory_bytes - cache.capacity_rows * row_bytes(dtype, dim)
        fixed = 64 * 128 + PAGE + OBJECT + 4 * dim
        allowed = 26.36 if policy == "s3fifo" else 24.36
        assert held - fixed <= allowed * cache.capacity_rows


@pytest.mark.parametrize("policy", POLICIES)
def test_a_bound_on_rows_is_kept(policy: _kernels.CachePolicy) -> None:
    for rows in (8, 9, 100, 4088, 4096, 10_000):
        cache = _kernels.RowCache(3, 8 << 20, policy, max_rows=rows)
        assert rows - 8 - rows // 500 <= cache.capacity_rows <= rows
        assert cache.memory_bytes <= 8 << 20


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_budget_that_holds_nothing_is_refused_and_the_least_works(policy: _kernels.CachePolicy, dtype: str) -> None:
    with pytest.raises(ValueError, match=r"^capacity_bytes: expected at least \d+") as refused:
        _kernels.RowCache(40, 100, policy, dtype)
    least = int(str(refused.value).split("at least ")[1].split()[0].rstrip(","))
    assert _kernels.RowCache(40, least, policy, dtype).memory_bytes <= least
    with pytest.raises(ValueError, match=r"^capacity_bytes: expected at least"):
        _kernels.RowCache(40, least - 1, policy, dtype)


STORM = """
import json, sys
import numpy as np
from pepnet_infer import _kernels as k
def resident():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) << 10
policy, dtype = sys.argv[1], sys.argv[2]
rng = np.random.default_rng(0)
batch, dim, capacity = 4096, 40, 24 << 20
rows = np.ones((batch, dim), np.float32)
out = np.zeros((batch, dim), np.float32)
warm = k.RowCache(dim, 1 << 20, policy, dtype)
keys = rng.integers(0, 1 << 40, batch, np.uint64)
warm.write(keys, rows, versions=keys); warm.lookup(keys, out); warm.erase(keys, keys); warm.mark_absent(keys)
del warm
before = resident()
cache = k.RowCache(dim, capacity, policy, dtype)
most, version = resident(), 1
for step in range(240):
    keys = rng.integers(0, 1 << 20, batch, np.uint64) if step < 160 else keys
    versions = np.full(batch, step + 1, np.uint64)
    cache.write(keys, rows, versions=versions, update=step % 2 == 1)
    if step % 3 == 0:
        cache.lookup(keys, out)
    if step % 7 == 0:
        cache.erase(keys, versions)
        cache.mark_absent(keys + np.uint64(1 << 30))
    if step % 10 == 0:
        most = max(most, resident())
most = max(most, resident())
print(json.dumps({"grown": most - before, "memory": cache.memory_bytes, "capacity": capacity,
                  "rows": cache.stats()["rows"], "evicted": cache.stats()["evicted_policy"],
                  "slots": cache.capacity_rows}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("policy", "dtype"),
    [("lru", "float32"), ("gset", "float16"), ("s3fifo", "int8"), ("sieve", "float32")],
)
def test_storms_stay_within_the_budget(policy: str, dtype: str) -> None:
    """Resident bytes of the process through insert and update storms, deletions and negative entries."""
    ran = subprocess.run(
        [sys.executable, "-c", STORM, policy, dtype],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    said = json.loads(ran.stdout)
    assert said["memory"] <= said["capacity"]
    # The interpreter and NumPy take and give back some pages of their own meanwhile.
    noise = 3 << 20
    assert said["grown"] <= said["memory"] + noise, said
    # And the budget was in use: else this could not fail.
    assert said["evicted"] > 10_000
    assert said["grown"] > 0.8 * said["memory"], said
