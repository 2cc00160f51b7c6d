"""The fully associative cache against a plain model, operation by operation, for every policy."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from full_cache_model import HIGH, QUOTA, TTL, Entry, Model

from pepnet_infer import _kernels

pytestmark = pytest.mark.property

POLICIES = ("lru", "gset", "lfu", "sieve", "s3fifo")
ROWS = 20
WRITTEN = {0: "stale", 1: "insert", 2: "replaced", 3: "rejected"}


def _cache(policy: str) -> _kernels.RowCache:
    rules: list[_kernels.FieldRule] = [
        {"table": HIGH, "high_priority": True},
        {"table": QUOTA, "share": 0.25},
        {"table": TTL, "ttl": 15.0},
    ]
    cache = _kernels.RowCache(
        2, 1 << 20, policy, full=True, max_rows=ROWS, beta=0.25, interval=10.0, tombstone_ttl=40.0, negative_ttl=20.0,
        fields=rules,
    )  # fmt: skip
    assert cache.capacity_rows == ROWS
    return cache


class _Pair:
    """The cache and the model, told the same."""

    def __init__(self, policy: str) -> None:
        self.cache, self.model = _cache(policy), Model(policy, ROWS, quota=ROWS // 4)
        self.advance(1000.0)
        self.evictions = dict.fromkeys(("expired", "policy", "share", "rejected"), 0)

    def advance(self, seconds: float) -> None:
        self.model.now += seconds
        self.cache.set_time(self.model.now)

    def lookup(self, key: int) -> None:
        out, outcome = np.full((1, 2), -1, np.float32), np.zeros(1, np.uint8)
        self.cache.lookup(np.array([key], np.uint64), out, outcome)
        expected = self.model.lookup(key)
        if isinstance(expected, str):
            assert outcome[0] == {"miss": 0, "absent": 2}[expected]
            assert (out == -1).all()
        else:
            assert outcome[0] == 1
            assert out.tolist() == [[expected, -expected]]

    def write(self, key: int, row: float, version: int, expires: float, score: float, update: bool) -> None:
        results = np.zeros(1, np.uint8)
        before = self.residents()
        self.cache.write(
            np.array([key], np.uint64), np.array([[row, -row]], np.float32), np.array([score], np.float32),
            np.array([version], np.uint64), np.array([expires]), update, results,
        )  # fmt: skip
        expected = self.model.write(key, row, version, expires, score, update)
        if expected in ("insert", "takes"):
            if self.make_room(key, True, before):
                self.model.insert(key, row, version, expires, score)
                expected = "replaced" if expected == "takes" else expected
            else:
                self.model.floor = max(self.model.floor, self.model.refused if expected == "takes" else 0)
                expected = "rejected"
        assert WRITTEN[int(results[0])] == expected

    def erase(self, key: int, version: int) -> None:
        before = self.residents()
        applied = self.cache.erase(np.array([key], np.uint64), np.array([version], np.uint64))
        expected = self.model.erase(key, version)
        assert applied == (expected != "stale")
        if expected == "insert" and self.make_room(key, False, before):
            self.model.place(key, Entry("tombstone", version, self.model.now + self.model.tombstone_ttl))
        elif expected == "insert":
            self.model.floor = max(self.model.floor, version)

    def absent(self, key: int) -> None:
        before = self.residents()
        self.cache.mark_absent(np.array([key], np.uint64))
        if self.model.alive(key) is not None:
            return
        if key in self.model.entries:
            self.model.evict(key)
            before.discard(key)
        if self.make_room(key, False, before):
            self.model.place(key, Entry("negative", 0, self.model.now + self.model.negative_ttl))

    def feedback(self, key: int, positive: bool) -> None:
        resident = self.cache.feedback(np.array([key], np.uint64), np.array([positive]))
        assert resident == self.model.feedback(key, positive)

    def make_room(self, key: int, is_row: bool, before: set[int]) -> bool:
        why, who = self.model.may_go(key, is_row)
        gone = (before & set(self.model.entries)) - self.residents() - {key}
        if why == "rejected":
            assert not gone
        elif why != "none":
            assert len(gone) == 1, (why, who, gone)
            (one,) = gone
            assert one in who, (why, who, one)
            self.model.evict(one, why in ("policy", "share"))
        if why != "none":
            self.evictions[why] += 1
        return why != "rejected"

    def residents(self) -> set[int]:
        return set(self.cache.part(0)["keys"].tolist())

    def check(self) -> None:
        part, entries = self.cache.part(0), self.model.entries
        assert sorted(part["keys"].tolist()) == sorted(entries)
        for i, key in enumerate(part["keys"].tolist()):
            entry = entries[key]
            assert part["version"][i] == entry.version
            assert part["expires"][i] == entry.expires
            assert part["tombstone"][i] == (entry.kind == "tombstone")
            assert part["rows"][i].tolist() == ([entry.row, -entry.row] if entry.kind == "row" else [0, 0])
            if self.model.scores and entry.kind == "row":
                assert part["scored"][i] == entry.scored
                assert math.isclose(part["score"][i], self.model.score(entry), rel_tol=1e-6, abs_tol=1e-30)
        stats = self.cache.stats()
        kinds = [entry.kind for entry in entries.values()]
        held = (stats["rows"], stats["negatives"], stats["tombstones"])
        assert held == tuple(kinds.count(kind) for kind in ("row", "negative", "tombstone"))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("seed", "crowd"), [(0, 6), (1, 6), (2, 40)])
def test_every_operation(policy: str, seed: int, crowd: int) -> None:
    """`crowd`: how many keys of high priority there are; with 40 they push all others out."""
    rng = random.Random(seed)
    pair = _Pair(policy)
    for step in range(4000):
        table = rng.choice((0, 0, 0, 0, HIGH, QUOTA, QUOTA, TTL))
        key = table << 48 | int((crowd if table == HIGH else 40) * rng.random() ** 2)
        what = rng.random()
        if what < 0.45:
            pair.lookup(key)
        elif what < 0.85:
            expires = pair.model.now + rng.uniform(1, 60) if rng.random() < 0.3 else math.inf
            score = rng.uniform(0.1, 3.0) if rng.random() < 0.5 else math.nan
            version = step // 8 + rng.randrange(-60, 20) if rng.random() < 0.9 else 0
            pair.write(key, float(np.float32(rng.random())), max(0, version), expires, score, rng.random() < 0.4)
        elif what < 0.88:
            pair.erase(key, max(0, step // 8 + rng.randrange(-60, 20)))
        elif what < 0.91:
            pair.absent(key)
        else:
            pair.feedback(key, rng.random() < 0.5)
        if rng.random() < 0.2:
            pair.advance(rng.choice((0.5, 3.0, 25.0)))
        if step % 50 == 0:
            pair.check()
    pair.check()
    counts = pair.cache.stats()
    assert counts["evicted_policy"] == pair.evictions["policy"] > 20
    assert counts["evicted_share"] == pair.evictions["share"]
    assert pair.evictions["expired"] > 20
    assert pair.evictions["rejected" if crowd == 40 else "share"] > 20
