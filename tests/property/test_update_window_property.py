"""Holding updates back never changes what is there in the end, and never lets more through than the limit."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pepnet_infer import _kernels
from pepnet_infer.rows.cache.update_window import UpdateWindow, WindowedUpdates

DIM = 2
START = 1_700_000_000.0


class Update(NamedTuple):
    key: int
    version: int
    delete: bool
    expires: float

    @property
    def row(self) -> list[float]:
        return [self.key, self.version]


@st.composite
def streams(draw: st.DrawFn) -> list[Update]:
    """Updates of a few ids; the same id and version is always the same update."""
    count = draw(st.integers(1, 40))
    stated: dict[tuple[int, int], Update] = {}
    for _ in range(count):
        key, version = draw(st.integers(0, 6)), draw(st.integers(1, 30))
        expires = draw(st.sampled_from([math.inf, START + 200.0]))
        stated.setdefault((key, version), Update(key, version, draw(st.booleans()), expires))
    updates = list(stated.values())
    replayed = draw(st.lists(st.sampled_from(updates), max_size=20))
    return draw(st.permutations(updates + replayed))


def batches(updates: list[Update], cuts: list[int]) -> list[list[Update]]:
    """The stream cut into runs of one kind, and further at `cuts`."""
    found: list[list[Update]] = []
    for i, update in enumerate(updates):
        if not found or i in cuts or found[-1][-1].delete != update.delete:
            found.append([])
        found[-1].append(update)
    return found


def columns(batch: list[Update]) -> tuple[Any, Any, Any, Any]:
    keys, versions = np.array([u.key for u in batch], np.uint64), np.array([u.version for u in batch], np.uint64)
    return keys, np.array([u.row for u in batch], np.float32), versions, np.array([u.expires for u in batch])


def content(cache: Any) -> dict[int, tuple[Any, ...]]:
    found = {}
    for index in range(cache.parts):
        part = cache.part(index)
        for i, key in enumerate(part["keys"]):
            entry = (part["tombstone"][i], part["version"][i], part["expires"][i])
            found[int(key)] = (*entry, *(part["rows"][i] if part["outcome"][i] == 1 else ()))
    return found


@settings(max_examples=150, deadline=None)
@given(
    stream=streams(),
    cuts=st.lists(st.integers(0, 60)),
    pauses=st.lists(st.sampled_from([0.0, 0.0, 0.5, 3.0]), min_size=60, max_size=60),
    limit=st.integers(1, 3),
    max_pending=st.integers(1, 8),
    full=st.booleans(),
)
def test_any_order_split_and_replay_ends_the_same(
    stream: list[Update], cuts: list[int], pauses: list[float], limit: int, max_pending: int, full: bool
) -> None:
    now = START
    windowed, direct = (_kernels.RowCache(DIM, 1 << 18, "lru", "float32", full) for _ in range(2))
    updates = WindowedUpdates(windowed, UpdateWindow(2.0, limit, max_pending=max_pending))
    for batch, pause in zip(batches(stream, cuts), pauses, strict=False):
        now += pause
        windowed.set_time(now)
        direct.set_time(now)
        keys, rows, versions, expires = columns(batch)
        if batch[0].delete:
            updates.delete(keys, versions, expires)
            direct.erase(keys, versions, expires)
        else:
            updates.apply(keys, rows, versions, None, expires)
            direct.write(keys, rows, None, versions, expires, update=True)
    updates.flush()
    newest: dict[int, Update] = {}
    for update in stream:
        if update.key not in newest or update.version > newest[update.key].version:
            newest[update.key] = update
    expected = {u.key: (u.delete, u.version, u.expires, *(() if u.delete else u.row)) for u in newest.values()}
    assert content(windowed) == expected
    assert content(direct) == expected
    stats = updates.stats()
    assert sum(stats[name] for name in ("applied", "stale", "coalesced")) == len(stream)


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 400), st.sampled_from([0.0, 0.3, 1.0])), max_size=60),
    limit=st.integers(1, 3),
)
def test_no_id_is_applied_more_often_than_the_limit(steps: list[tuple[int, int, float]], limit: int) -> None:
    cache = _kernels.RowCache(DIM, 1 << 18)
    updates = WindowedUpdates(cache, UpdateWindow(1.0, limit))
    now = START
    counts: dict[tuple[int, float], int] = {}
    for key, version, pause in steps:
        now += pause
        cache.set_time(now)
        before = {k: int(cache.peek(np.array([k], np.uint64))["version"][0]) for k in range(4)}
        update = Update(key, version, False, math.inf)
        keys, rows, versions, expires = columns([update])
        held = updates.stats()["pending"]
        applied = updates.flush(now)
        assert applied <= held
        between = {k: int(cache.peek(np.array([k], np.uint64))["version"][0]) for k in range(4)}
        applied += updates.apply(keys, rows, versions, None, expires)
        after = {k: int(cache.peek(np.array([k], np.uint64))["version"][0]) for k in range(4)}
        changed = [k for k in range(4) for old, new in ((before, between), (between, after)) if old[k] != new[k]]
        assert len(changed) == applied
        for k in changed:
            counts[k, math.floor(now)] = counts.get((k, math.floor(now)), 0) + 1
    assert all(count <= limit for count in counts.values()), counts
