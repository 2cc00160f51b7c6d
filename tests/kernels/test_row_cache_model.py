"""The set-associative cache against a small oracle, by any sequence of calls hypothesis thinks of, for every policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from pooled_lookup import look_up_bags

from pepnet_infer import _kernels

pytestmark = pytest.mark.property

POLICIES: tuple[_kernels.CachePolicy, ...] = ("lru", "gset", "lfu", "sieve", "s3fifo")
DIM, START = 3, 1_000_000
HIGH, TTL = 1, 3  # tables with a rule
FIELD_TTL, TOMBSTONE_TTL, NEGATIVE_TTL = 50.0, 400.0, 20.0
STALE, INSERTED, REPLACED, REJECTED = range(4)
WRITTEN = (INSERTED, REPLACED)

keys = st.builds(lambda table, id: table << 48 | id, st.sampled_from((0, 0, HIGH, TTL)), st.integers(0, 7))
versions = st.integers(0, 30)
# Seconds ahead: within the finest unit, beyond it, in the past; none.
lives = st.one_of(st.just(math.inf), st.integers(-5, 100), st.sampled_from((300, 1023, 5000, 2_000_000)))
jumps = st.sampled_from((1, 3, 19, 51, 255, 256, 300, 700, 1100, 6000, 40_000, 3_000_000, 40_000_000))
batches = st.lists(st.tuples(keys, versions, lives), min_size=1, max_size=4)


def rows_of(key: int, version: int) -> list[float]:
    return [float(key & 0xFFFF), float(version), float(key >> 48)]


def deadline(expires: float, now: float) -> float:
    """As expiry.h keeps it: in units of 2^s quarters of a second, the least for which it is at most 1000 units away."""
    if expires == math.inf:
        return math.inf
    scale = 0
    while scale < 15 and expires - now > 1000 * 0.25 * 2**scale:
        scale += 1
    unit = 0.25 * 2**scale
    count = min(math.ceil(expires / unit), math.floor(now / unit) + 1000)
    return (count + (scale == 0 and count % 4096 == 0)) * unit  # that code means never: the next one


@dataclass
class Entry:
    kind: str  # row, tombstone, negative
    version: int
    until: float


class Calls(RuleBasedStateMachine):
    """The cache, its clock and calls of one shape."""

    policy: _kernels.CachePolicy = "lru"
    rows = 0

    def __init__(self) -> None:
        super().__init__()
        self.cache = _kernels.RowCache(
            DIM, 1 << 20, self.policy, max_rows=self.rows, tombstone_ttl=TOMBSTONE_TTL, negative_ttl=NEGATIVE_TTL,
            fields=[{"table": HIGH, "high_priority": True}, {"table": TTL, "ttl": FIELD_TTL}],
        )  # fmt: skip
        assert self.cache.parts == 1
        self.now = float(START)
        self.cache.set_time(self.now)
        self.entries: dict[int, Entry] = {}
        self.counts = dict.fromkeys(("hits", "misses", "negative_hits", "inserted", "replaced"), 0)

    def expiry(self, key: int, expires: float) -> float:
        if expires == math.inf and key >> 48 == TTL:
            expires = self.now + FIELD_TTL
        return deadline(expires, self.now)

    def living(self, key: int) -> Entry | None:
        entry = self.entries.get(key)
        return entry if entry is not None and self.now < entry.until else None

    def write(self, batch: list[tuple[int, int, float]], update: bool) -> list[int]:
        results = np.zeros(len(batch), np.uint8)
        written = self.cache.write(
            np.array([key for key, _, _ in batch], np.uint64),
            np.array([rows_of(key, version) for key, version, _ in batch], np.float32),
            None,
            np.array([version for _, version, _ in batch], np.uint64),
            np.array([self.now + life for _, _, life in batch]),
            update,
            results,
        )
        assert written == np.isin(results, WRITTEN).sum()
        self.counts["inserted"] += int((results == INSERTED).sum())
        self.counts["replaced"] += int((results == REPLACED).sum())
        return [int(result) for result in results]

    def look(self, asked: list[int], counted: bool, pooled: bool) -> list[int]:
        """Outcomes; every row that comes must be one that was written, and is checked against the entry's version."""
        out, outcomes = np.full((len(asked), DIM), -1, np.float32), np.zeros(len(asked), np.uint8)
        wanted = np.array(asked, np.uint64)
        if pooled:
            found = look_up_bags(self.cache, wanted, np.arange(len(asked) + 1), "sum", out, outcomes, counted)
        else:
            found = self.cache.lookup(wanted, out, outcomes, counted)
        assert found == (outcomes == 1).sum()
        for key, outcome, row in zip(asked, outcomes, out, strict=True):
            if outcome == 1:
                assert row.tolist() == rows_of(key, self.entries[key].version)
            elif not pooled:
                assert (row == -1).all()
        if counted:
            for name, value in (("hits", 1), ("misses", 0), ("negative_hits", 2)):
                self.counts[name] += int((outcomes == value).sum())
        return [int(outcome) for outcome in outcomes]

    @rule(seconds=jumps)
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.cache.set_time(self.now)

    @invariant()
    def counters_add_up(self) -> None:
        stats = self.cache.stats()
        assert {name: stats[name] for name in self.counts} == self.counts
        held = stats["rows"] + stats["negatives"] + stats["tombstones"]
        part = self.cache.part(0)
        assert len(part["keys"]) <= held <= self.cache.capacity_rows
        for i, key in enumerate(part["keys"].tolist()):
            entry = self.living(key)
            assert entry is not None, "an entry that nobody made, or that has expired"
            assert part["expires"][i] == entry.until
            assert part["version"][i] == entry.version
            assert part["outcome"][i] == (1 if entry.kind == "row" else 2)
            assert part["tombstone"][i] == (entry.kind == "tombstone")
            assert part["high_priority"][i] == (entry.kind == "row" and key >> 48 == HIGH)
            assert part["rows"][i].tolist() == (rows_of(key, entry.version) if entry.kind == "row" else [0.0] * DIM)


class Resident(Calls):
    """Room for all: what every call answers is known, but for one thing. An update of an id that is not there is stale
    if its version is not above the highest that went; when an expired row goes is the cache's affair, so that this
    floor is known to lie between two numbers."""

    rows = 400

    def __init__(self) -> None:
        super().__init__()
        self.floor = 0

    def gone(self, key: int) -> None:
        """A writer has met the expired entry of its own key: it is gone from here on."""
        if key in self.entries and self.living(key) is None:
            self.floor = max(self.floor, self.entries.pop(key).version)

    def below_floor(self, version: int) -> bool | None:
        """None: nobody knows."""
        if self.floor and version <= self.floor:
            return True
        highest = max((e.version for e in self.entries.values() if self.now >= e.until), default=0)
        return None if version <= highest else False

    @rule(batch=batches, update=st.booleans())
    def writes(self, batch: list[tuple[int, int, float]], update: bool) -> None:
        for (key, version, life), result in zip(batch, self.write(batch, update), strict=True):
            self.gone(key)
            entry = self.entries.get(key)
            low = self.below_floor(version) if update else False
            if entry is None or entry.kind == "negative":
                good = INSERTED if entry is None else REPLACED
                assert result in ((STALE, good) if low is None else (STALE,) if low else (good,))
                if result == STALE:
                    self.entries.pop(key, None)  # the store is asked again
            elif entry.kind == "tombstone" or update:
                assert result == (REPLACED if version > entry.version else STALE)
            else:
                assert result == (REPLACED if version >= entry.version else STALE)
            if result in WRITTEN:
                self.entries[key] = Entry("row", version, self.expiry(key, self.now + life))

    @rule(key=keys, version=versions, life=st.one_of(st.none(), lives))
    def erases(self, key: int, version: int, life: float | None) -> None:
        until = None if life is None else np.array([self.now + life])
        applied = self.cache.erase(np.array([key], np.uint64), np.array([version], np.uint64), until)
        self.gone(key)
        entry = self.entries.get(key)
        if entry is None or entry.kind == "negative":
            low = self.below_floor(version)
            assert low is None or applied == (not low)
        else:
            assert applied == (version > entry.version or (version == entry.version and entry.kind == "row"))
        if applied:
            expires = self.now + (TOMBSTONE_TTL if life is None else life)
            self.entries[key] = Entry("tombstone", version, self.expiry(key, expires))

    @rule(key=keys)
    def marks_absent(self, key: int) -> None:
        self.cache.mark_absent(np.array([key], np.uint64))
        self.gone(key)
        if key not in self.entries:
            self.entries[key] = Entry("negative", 0, deadline(self.now + NEGATIVE_TTL, self.now))

    @rule(asked=st.lists(keys, min_size=1, max_size=6), counted=st.booleans(), pooled=st.booleans())
    def looks(self, asked: list[int], counted: bool, pooled: bool) -> None:
        for key, outcome in zip(asked, self.look(asked, counted, pooled), strict=True):
            entry = self.living(key)
            assert outcome == (0 if entry is None else 1 if entry.kind == "row" else 2)

    @rule(key=keys, positive=st.booleans())
    def feeds_back(self, key: int, positive: bool) -> None:
        entry = self.living(key)
        if entry is None and key in self.entries:
            return  # of rows that have expired: tests/kernels/test_row_cache.py
        resident = self.cache.feedback(np.array([key], np.uint64), np.array([positive]))
        assert resident == (entry is not None and entry.kind == "row")

    @rule()
    def clears(self) -> None:
        self.cache.clear()
        self.entries.clear()
        self.floor = 0

    @invariant()
    def all_is_there(self) -> None:
        living = {key for key in self.entries if self.living(key) is not None}
        assert set(self.cache.part(0)["keys"].tolist()) == living
        assert self.cache.stats()["evicted_policy"] == 0


class Crowded(Calls):
    """Half as many slots as ids: whatever is there is the row that was last applied, no row of high priority goes
    before its time, and an update is never older than one that was applied before."""

    rows = 16

    def __init__(self) -> None:
        super().__init__()
        self.applied: dict[int, int] = {}  # the newest version since the last insert
        self.high: dict[int, float] = {}  # rows of high priority, and until when

    @rule(batch=batches, update=st.booleans())
    def writes(self, batch: list[tuple[int, int, float]], update: bool) -> None:
        for (key, version, life), result in zip(batch, self.write(batch, update), strict=True):
            if result in WRITTEN:
                if update:
                    assert version > self.applied.get(key, -1)
                self.applied[key] = version
                self.entries[key] = Entry("row", version, self.expiry(key, self.now + life))
                if key >> 48 == HIGH:
                    self.high[key] = self.entries[key].until

    @rule(key=keys, version=versions)
    def erases(self, key: int, version: int) -> None:
        if self.cache.erase(np.array([key], np.uint64), np.array([version], np.uint64)):
            assert version >= self.applied.get(key, 0)
            self.applied[key] = version
            self.high.pop(key, None)
            self.entries[key] = Entry("tombstone", version, deadline(self.now + TOMBSTONE_TTL, self.now))

    @rule(key=keys)
    def marks_absent(self, key: int) -> None:
        before = int(self.cache.peek(np.array([key], np.uint64))["outcome"][0])
        self.cache.mark_absent(np.array([key], np.uint64))
        info = self.cache.peek(np.array([key], np.uint64))
        if before == 0 and info["outcome"][0] == 2:
            self.high.pop(key, None)
            self.entries[key] = Entry("negative", 0, deadline(self.now + NEGATIVE_TTL, self.now))

    @rule(asked=st.lists(keys, min_size=1, max_size=6), pooled=st.booleans())
    def looks(self, asked: list[int], pooled: bool) -> None:
        self.look(asked, True, pooled)

    @invariant()
    def high_priority_stays(self) -> None:
        there = set(self.cache.part(0)["keys"].tolist())
        assert all(key in there for key, until in self.high.items() if self.now < until)
        assert len(there) <= 14  # two slots are spare


def machine(base: type[Calls], policy: _kernels.CachePolicy) -> Callable[[], Calls]:
    return type(f"{base.__name__}_{policy}", (base,), {"policy": policy})


@pytest.mark.parametrize("base", [Resident, Crowded])
@pytest.mark.parametrize("policy", POLICIES)
def test_any_calls(policy: _kernels.CachePolicy, base: type[Calls]) -> None:
    rules = settings(
        max_examples=25, stateful_step_count=35, deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(machine(base, policy), settings=rules)


Statement = tuple[int, int, bool]  # key, version, whether it deletes


def state_after(policy: _kernels.CachePolicy, calls: list[list[Statement]]) -> dict[int, tuple[object, ...]]:
    cache = _kernels.RowCache(DIM, 1 << 20, policy, max_rows=400)
    cache.set_time(START)
    for call in calls:
        for deletes in (False, True):
            some = [(key, version) for key, version, gone in call if gone == deletes]
            wanted = np.array([key for key, _ in some], np.uint64)
            numbers: npt.NDArray[np.uint64] = np.array([version for _, version in some], np.uint64)
            if deletes:
                cache.erase(wanted, numbers)
            else:
                rows = np.array([rows_of(*one) for one in some], np.float32).reshape(-1, DIM)
                cache.write(wanted, rows, versions=numbers, update=True)
    part = cache.part(0)
    held = zip(
        part["keys"].tolist(), part["version"].tolist(), part["tombstone"].tolist(), part["rows"].tolist(), strict=True
    )
    return {key: (version, gone, tuple(row)) for key, version, gone, row in held}


@pytest.mark.parametrize("policy", POLICIES)
def test_any_order_split_and_replay_of_a_stream_converges(policy: _kernels.CachePolicy) -> None:
    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(
        stream=st.lists(st.tuples(keys, st.integers(0, 12), st.booleans()), min_size=1, max_size=40),
        data=st.data(),
    )
    def check(stream: list[Statement], data: st.DataObject) -> None:
        again = data.draw(st.lists(st.sampled_from(stream), max_size=20))
        order = data.draw(st.permutations(stream + again))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(order)), max_size=6)))
        calls = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
        # Of each id the highest version holds, and of one version the deletion.
        newest: dict[int, tuple[int, bool]] = {}
        for key, version, gone in stream:
            newest[key] = max(newest.get(key, (-1, False)), (version, gone))
        expected = {k: (v, gone, (0.0,) * DIM if gone else tuple(rows_of(k, v))) for k, (v, gone) in newest.items()}
        assert state_after(policy, calls) == expected
        assert state_after(policy, [stream]) == expected

    check()
