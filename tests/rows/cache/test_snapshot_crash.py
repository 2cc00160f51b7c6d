"""Kill -9 in the middle of a snapshot: the last one that was finished loads, whole, and nothing is left over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from children import run_program

pytestmark = pytest.mark.crash

#: One process kills many: it forks a saver for each, which is faster than starting an interpreter for each.
DRIVER = """
import json, os, random, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
from children import ended, fork
import numpy as np
from pepnet_infer import _kernels
from pepnet_infer.rows.cache import snapshot, snapshot_file

folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
target, dim, rng = folder / "snapshot", 4, random.Random(seed)
keys = np.arange(6000, dtype=np.uint64)
cache = _kernels.RowCache(dim, 1 << 20)

def fill(generation):
    rows = (keys[:, None] + np.uint64(10000 * generation) + np.arange(dim, dtype=np.uint64)).astype(np.float32)
    cache.write(keys, rows, versions=np.full(len(keys), generation, np.uint64))

def loaded():
    fresh = _kernels.RowCache(dim, 1 << 20)
    snapshot.load(fresh, target)
    seen = fresh.peek(keys)
    there = seen["outcome"] == 1
    rows = np.zeros((len(keys), dim), np.float32)
    fresh.lookup(keys, rows)
    generations = np.unique(seen["version"][there])
    assert len(generations) == 1, generations
    expected = keys[:, None] + np.uint64(10000) * generations[0] + np.arange(dim, dtype=np.uint64)
    assert np.array_equal(rows[there], expected[there].astype(np.float32))
    return int(generations[0]), int(there.sum())

steps = 0
def counted(work, fatal):
    # Dies before the n-th call that writes, syncs or renames.
    def step(*args, **more):
        global steps
        steps += 1
        if steps == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*args, **more)
    return step

def attempt(generation, fatal, delay):
    begun, said = os.pipe()
    def work():
        fill(generation)
        for name in ("fsync", "replace", "open"):
            setattr(os, name, counted(getattr(os, name), fatal))
        writer = snapshot_file.Writer
        snapshot_file.Writer = lambda file, header: writer(SimpleNamespace(write=counted(file.write, fatal)), header)
        os.write(said, b"x")
        snapshot.save(cache, target)
    child = fork(work)
    os.close(said)
    os.read(begun, 1)
    os.close(begun)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    code = ended(child)
    return code < 0, code

fill(1)
begin = time.perf_counter()
snapshot.save(cache, target)
length = time.perf_counter() - begin
good, size = loaded()
report = {"killed": 0, "finished": 0, "old": 0, "new": 0, "left_over": 0, "at_a_step": 0}
generation = 1
while report["killed"] < kills:
    generation += 1
    at_a_step = rng.random() < 0.5
    fatal, delay = (rng.randint(1, 30), None) if at_a_step else (0, rng.uniform(0, 1.1) * length)
    killed, code = attempt(generation, fatal, delay)
    assert killed or (code == 0 and not at_a_step), code  # a save has 30 steps
    left = list(folder.glob(".snapshot.tmp-*"))
    assert len(left) <= 1, left
    now, there = loaded()
    assert now in (good, generation), (now, good, generation)
    assert killed or now == generation
    assert there == size, (there, size)
    report["killed" if killed else "finished"] += 1
    report["at_a_step"] += killed and at_a_step
    report["left_over"] += bool(left)
    report["new" if now == generation else "old"] += 1
    good = now
assert attempt(generation + 1, 0, None) == (False, 0)
report["files"] = sorted(os.listdir(folder))
print(json.dumps(report))
"""


@pytest.mark.parametrize("kills", [24, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_snapshot_leaves_the_one_before(kills: int, tmp_path: Path) -> None:
    report = json.loads(run_program(DRIVER, tmp_path, kills, 17, timeout=300))
    print(report)
    assert report["killed"] == kills
    assert report["files"] == ["snapshot"]
    assert report["at_a_step"] >= kills // 5, report
    assert report["left_over"] >= kills // 4, report
    assert report["old"] >= kills // 4, report
