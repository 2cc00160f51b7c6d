"""A fork while other threads read and write the row cache: the child uses its copy and does not hang."""

from __future__ import annotations

import pytest
from children import run_program

pytestmark = pytest.mark.concurrency

FORKING = """
import sys, threading, time
import numpy as np
from children import well_in_a_child
from pepnet_infer import _kernels as k
rules = [{"table": 0, "share": 0.5}]
cache = k.RowCache(8, 1 << 20, sys.argv[1], max_rows=4000, fields=rules)
ids = np.arange(8000, dtype=np.uint64)
ones = np.ones((8000, 8), np.float32)
stop = False
def use(which):
    out = np.zeros((8000, 8), np.float32)
    outcomes = np.zeros(8000, np.uint8)
    if which == 0:
        cache.write(ids, ones, versions=ids, update=False)
    elif which == 1:
        cache.lookup(ids, out, outcomes)
        assert (out[outcomes == 1] == 1).all()
    else:
        cache.erase(ids[:160], ids[:160])
        cache.part(0)
def work(which):
    while not stop:
        use(which)
def in_child():
    for which in (0, 1, 2, 1):
        use(which)
    stats = cache.stats()
    there = sum(len(cache.part(i)["keys"]) for i in range(cache.parts))
    assert there == stats["rows"] + stats["negatives"] + stats["tombstones"] > 0, (there, stats)
threads = [threading.Thread(target=work, daemon=True, args=(n,)) for n in (0, 1, 0, 1, 2)]
for t in threads:
    t.start()
time.sleep(0.02)
for _ in range(6):
    well_in_a_child(in_child)
    print("child", flush=True)
stop = True
for t in threads:
    t.join()
"""


@pytest.mark.parametrize("policy", ["lru", "s3fifo"])
def test_a_child_forked_amid_reads_and_writes_uses_the_cache(policy: str) -> None:
    assert run_program(FORKING, policy, timeout=400) == "child\n" * 6
