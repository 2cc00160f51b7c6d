"""What the fully associative cache must do, written as plainly as possible: lists, dictionaries and formulas.

Scores are the recurrence itself, interval by interval. Where two of them lie within rounding of each other either may
go: `Model.may_go` is a set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

HIGH, QUOTA, TTL = 1, 2, 3  # tables with a rule: high priority, a share, a time to live


@dataclass
class Entry:
    kind: str  # row, negative, tombstone
    version: int
    expires: float
    row: float = 0.0
    used: int = 0
    scored: bool = False
    counts: list[tuple[float, float]] = field(default_factory=list)  # (interval, β·c): a score that came counts once
    seen: int = 0  # sieve: visited; s3fifo: frequency
    main: bool = False


@dataclass
class Model:
    policy: str
    capacity: int
    quota: int
    beta: float = 0.25
    r: float = 3.0
    interval: float = 10.0
    ttl: float = 15.0
    tombstone_ttl: float = 40.0
    negative_ttl: float = 20.0
    now: float = 0.0
    entries: dict[int, Entry] = field(default_factory=dict)  # in order of arrival
    hand: int | None = None
    ghosts: list[int] = field(default_factory=list)
    returns: bool = False
    evicted_any: bool = False
    floor: int = 0
    refused: int = 0  # version of what a row would have taken the place of
    clock: int = 0

    @property
    def scores(self) -> bool:
        return self.policy in ("gset", "lfu")

    def score(self, entry: Entry) -> float:
        n = self.now // self.interval
        return math.fsum(c * (1 - self.beta) ** (n - at) for at, c in entry.counts)

    def alive(self, key: int) -> Entry | None:
        entry = self.entries.get(key)
        return entry if entry is not None and entry.expires > self.now else None

    def lookup(self, key: int) -> float | str:
        entry = self.alive(key)
        if entry is None:
            return "miss"
        if entry.kind != "row":
            return "absent"
        self.clock += 1
        entry.used = self.clock
        if not entry.scored:
            entry.counts.append((self.now // self.interval, self.beta))
        entry.seen = 1 if self.policy == "sieve" else min(3, entry.seen + 1)
        return entry.row

    def feedback(self, key: int, positive: bool) -> bool:
        entry = self.alive(key)
        if entry is None or entry.kind != "row":
            return False
        entry.counts.append((self.now // self.interval, self.beta * (self.r if positive else 1.0)))
        entry.scored = entry.scored or self.policy == "gset"
        return True

    def write(self, key: int, row: float, version: int, expires: float, score: float, update: bool) -> str:
        """Returns stale, replaced, or insert: then `may_go` says who makes room and `insert` puts it there.

        takes: the same for a row where an entry without one was, in a table that is at its share.
        """
        self.forget_tombstone(key)
        entry = self.entries.get(key)
        if entry is None:
            return "stale" if update and self.floor and version <= self.floor else "insert"
        if entry.kind == "row":
            if version < entry.version or (version == entry.version and update):
                return "stale"
            entry.row, entry.version, entry.expires = row, version, self.deadline(key, expires)
            if self.policy == "gset" and not math.isnan(score):
                self.start(entry, score)
            return "replaced"
        if entry.kind == "tombstone" and version <= entry.version:
            return "stale"
        if entry.kind == "negative" and update and self.floor and version <= self.floor:
            self.drop(key)  # the store is asked again
            return "stale"
        self.drop(key)
        if key >> 48 == QUOTA and len(self.of_quota()) >= self.quota:
            self.refused = entry.version
            return "takes"
        self.announce(key)
        self.insert(key, row, version, expires, score)
        return "replaced"

    def erase(self, key: int, version: int) -> str:
        self.forget_tombstone(key)
        entry = self.entries.get(key)
        if entry is None:
            return "stale" if self.floor and version <= self.floor else "insert"
        if entry.kind == "negative":
            if self.floor and version <= self.floor:
                return "stale"
        elif version < entry.version or (version == entry.version and entry.kind == "tombstone"):
            return "stale"
        self.drop(key)
        self.announce(key)
        self.place(key, Entry("tombstone", version, self.now + self.tombstone_ttl))
        return "replaced"

    def forget_tombstone(self, key: int) -> None:
        entry = self.entries.get(key)
        if entry is not None and entry.kind == "tombstone" and entry.expires <= self.now:
            self.evict(key)

    def deadline(self, key: int, expires: float) -> float:
        return self.now + self.ttl if expires == math.inf and key >> 48 == TTL else expires

    def start(self, entry: Entry, score: float) -> None:
        entry.scored = self.policy == "gset" and not math.isnan(score)
        entry.counts = [(self.now // self.interval, score if entry.scored else self.beta)]

    def insert(self, key: int, row: float, version: int, expires: float, score: float) -> None:
        entry = Entry("row", version, self.deadline(key, expires), row)
        self.start(entry, score)
        self.place(key, entry)

    def place(self, key: int, entry: Entry) -> None:
        self.clock += 1
        entry.used = self.clock
        small = sum(not e.main for k, e in self.entries.items() if self.open(k))
        entry.main = not self.evicted_any and small >= int(self.capacity * 0.1)
        entry.main = entry.main or self.returns
        self.entries[key] = entry

    def of_quota(self) -> list[int]:
        return [k for k, e in self.entries.items() if k >> 48 == QUOTA and e.kind == "row"]

    def announce(self, key: int) -> None:
        """A key that comes back is taken off the ghosts before its victim is put there."""
        self.returns = key in self.ghosts
        if self.returns:
            self.ghosts.remove(key)

    def open(self, key: int) -> bool:
        return key >> 48 != HIGH or self.entries[key].kind != "row"

    def drop(self, key: int) -> None:
        if self.hand == key:
            keys = [k for k in self.entries if self.open(k)]
            later = keys[keys.index(key) + 1 :]
            self.hand = later[0] if later else None
        del self.entries[key]

    def evict(self, key: int, by_policy: bool = False) -> None:
        entry = self.entries[key]
        self.floor = max(self.floor, entry.version)
        if by_policy and self.policy == "s3fifo" and not entry.main and entry.kind == "row":
            self.ghosts = [*self.ghosts, key][-int(self.capacity * 0.9) :]
        self.drop(key)

    def may_go(self, key: int, is_row: bool) -> tuple[str, set[int]]:
        """Why and who has to go before `key` can come: none, expired, policy, share; rejected: there is nobody."""
        self.announce(key)
        group = None
        if is_row and key >> 48 == QUOTA:
            mine = self.of_quota()
            group = mine if len(mine) >= self.quota else None
        if group is None and len(self.entries) < self.capacity:
            return "none", set()
        among = group if group is not None else list(self.entries)
        gone = [k for k in among if self.entries[k].expires <= self.now]
        if gone:
            first = min(self.entries[k].expires for k in gone)
            return "expired", {k for k in gone if self.entries[k].expires == first}
        among = [k for k in among if self.open(k)]
        if not among:
            return "rejected", set()
        self.evicted_any = True
        return ("share" if group is not None else "policy"), self.victims(among, group is not None)

    def victims(self, among: list[int], grouped: bool) -> set[int]:
        entries = self.entries
        if self.policy == "lru":
            return {min(among, key=lambda k: entries[k].used)}
        if self.scores:
            low = min(self.score(entries[k]) for k in among)
            near = [k for k in among if self.score(entries[k]) <= low * (1 + 1e-9)]
            equal = [k for k in near if entries[k].counts == entries[near[0]].counts]
            return {min(near, key=lambda k: entries[k].used)} if len(equal) == len(near) else set(near)
        if self.policy == "sieve":
            return {self.sieve(among, grouped)}
        return {self.s3fifo_group(among) if grouped else self.s3fifo()}

    def sieve(self, among: list[int], grouped: bool) -> int:
        queue = [k for k in self.entries if self.open(k)]
        at = 0 if self.hand is None else queue.index(self.hand)
        while queue[at] not in among or self.entries[queue[at]].seen:
            if queue[at] in among:
                self.entries[queue[at]].seen = 0
            at = (at + 1) % len(queue)
        if not grouped:
            self.hand = queue[at]
        return queue[at]

    def s3fifo_group(self, among: list[int]) -> int:
        order = [k for main in (False, True) for k in self.entries if k in among and self.entries[k].main == main]
        spare = [k for k in order if self.entries[k].seen < (1 if self.entries[k].main else 2)]
        return (spare or order)[0]

    def s3fifo(self) -> int:
        def oldest(main: bool) -> list[int]:
            return [k for k, e in self.entries.items() if e.main == main and self.open(k)]

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
