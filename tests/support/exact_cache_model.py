"""What the exact cache must do, written as plainly as possible: lists, dictionaries and formulas.

Scores are the recurrence itself, interval by interval. Where two of them lie within rounding of each other either may
be evicted: `Model.victims` is a set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class Entry:
    value: float
    used: int = 0
    scored: bool = False
    counts: list[tuple[float, float]] = field(default_factory=list)  # (interval, β·c): a score that came counts once
    seen: int = 0  # sieve: visited; s3fifo: frequency
    main: bool = False


@dataclass
class Model:
    policy: str
    capacity: int
    beta: float = 0.25
    r: float = 3.0
    interval: float = 10.0
    now: float = 0.0
    entries: dict[int, Entry] = field(default_factory=dict)  # in order of arrival
    hand: int | None = None
    ghosts: list[int] = field(default_factory=list)
    evicted_any: bool = False
    clock: int = 0

    @property
    def scores(self) -> bool:
        return self.policy in ("gset", "lfu")

    def score(self, entry: Entry) -> float:
        n = self.now // self.interval
        return math.fsum(c * (1 - self.beta) ** (n - at) for at, c in entry.counts)

    def lookup(self, key: int) -> float | None:
        entry = self.entries.get(key)
        if entry is None:
            return None
        self.clock += 1
        entry.used = self.clock
        if not entry.scored:
            entry.counts.append((self.now // self.interval, self.beta))
        entry.seen = 1 if self.policy == "sieve" else min(3, entry.seen + 1)
        return entry.value

    def feedback(self, key: int, positive: bool) -> bool:
        entry = self.entries.get(key)
        if entry is None:
            return False
        entry.counts.append((self.now // self.interval, self.beta * (self.r if positive else 1.0)))
        entry.scored = entry.scored or self.policy == "gset"
        return True

    def replace(self, key: int, value: float, score: float) -> None:
        entry = self.entries[key]
        entry.value = value
        if self.policy == "gset" and not math.isnan(score):
            self.start(entry, score)

    def insert(self, key: int, value: float, score: float, returns: bool) -> None:
        """There must be room. returns: s3fifo had the key among those that were evicted lately."""
        self.clock += 1
        entry = Entry(value, self.clock)
        self.start(entry, score)
        small = sum(not e.main for e in self.entries.values())
        entry.main = returns or (not self.evicted_any and small >= int(self.capacity * 0.1))
        self.entries[key] = entry

    def start(self, entry: Entry, score: float) -> None:
        entry.scored = self.policy == "gset" and not math.isnan(score)
        entry.counts = [(self.now // self.interval, score if entry.scored else self.beta)]

    def returns(self, key: int) -> bool:
        """Whether s3fifo remembers the key; it does not any longer."""
        if key not in self.ghosts:
            return False
        self.ghosts.remove(key)
        return True

    def evict(self, key: int) -> None:
        if self.policy == "s3fifo" and not self.entries[key].main:
            self.ghosts = [*self.ghosts, key][-int(self.capacity * 0.9) :]
        if self.hand == key:
            keys = list(self.entries)
            later = keys[keys.index(key) + 1 :]
            self.hand = later[0] if later else None
        del self.entries[key]

    def victims(self) -> set[int]:
        """Of which one must be evicted now: one key, but where scores are too close to tell."""
        entries = self.entries
        self.evicted_any = True
        if self.policy == "lru":
            return {min(entries, key=lambda k: entries[k].used)}
        if self.policy == "sieve":
            return {self.sieve()}
        if self.policy == "s3fifo":
            return {self.s3fifo()}
        low = min(self.score(entry) for entry in entries.values())
        near = [k for k in entries if self.score(entries[k]) <= low * (1 + 1e-9)]
        equal = [k for k in near if entries[k].counts == entries[near[0]].counts]
        return {min(near, key=lambda k: entries[k].used)} if len(equal) == len(near) else set(near)

    def sieve(self) -> int:
        queue = list(self.entries)
        at = 0 if self.hand is None else queue.index(self.hand)
        while self.entries[queue[at]].seen:
            self.entries[queue[at]].seen = 0
            at = (at + 1) % len(queue)
        self.hand = queue[at]
        return queue[at]

    def s3fifo(self) -> int:
        def oldest(main: bool) -> list[int]:
            return [k for k, e in self.entries.items() if e.main == main]

        def back(key: int, seen: int) -> None:
            entry = self.entries.pop(key)
            entry.main, entry.seen = True, seen
            self.entries[key] = entry

        from_main = len(oldest(True)) > self.capacity - int(self.capacity * 0.1)
        while not from_main and (small := oldest(False)):
            if self.entries[small[0]].seen < 2:
                return small[0]
            back(small[0], 0)
        while self.entries[(main := oldest(True))[0]].seen:
            back(main[0], self.entries[main[0]].seen - 1)
        return main[0]
