"""What was asked of the cache's speed and what came, one entry a requirement, table and policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pepnet_infer.bench.harness.statistics import Ratio

#: (peer, what is said of it, bound). At least so many times the cache's time; each must be there to be asked.
FASTER = (
    ("numpy-index", "NumPy table[idx]", 2.0),
    ("list-lru", "std::unordered_map + std::list LRU", 5.0),
    ("cachetools", "cachetools", 20.0),
    ("theine", "theine", 20.0),
)
MAPS = (
    ("robin-map", "robin map + arena, same bookkeeping", 2.0),
    ("absl-map", "abseil map + arena, same bookkeeping", 2.0),
)
FLOOR = 1.6
#: Rows of a table from which on the maps are asked about.
MAP_ROWS = 5_000_000
READERS, READERS_UPDATED, UPDATES_A_SECOND = 1.8, 1.6, 100_000
WRITER, READER_P99, VISIBLE_MS = 2e6, 1.2, 10.0
MISSES, METADATA = 2.0, 24.0


@dataclass(frozen=True)
class Claim:
    """One requirement. `low` and `high` hold the middle 95 % of what came under resampling; None: one figure.

    `quiet` is the same of the 10 % quantiles instead of the medians: nearer to a quiet machine, where this one was not.
    """

    what: str
    table_mb: int
    ours: str  # the policy, and the destination where it is not one array
    bound: float
    at_least: bool  # or at most
    got: float
    unit: str = "×"
    low: float | None = None
    high: float | None = None
    quiet: float | None = None

    @property
    def met(self) -> bool:
        """Whether what came is on the right side of what was asked."""
        return self.got >= self.bound if self.at_least else self.got <= self.bound

    @classmethod
    def of(
        cls, what: str, table_mb: int, ours: str, bound: float, at_least: bool, ratio: Ratio, quiet: Any = None
    ) -> Claim:
        """Returns a claim on a ratio with its interval."""
        got, low, high = ratio["ratio"], ratio["low"], ratio["high"]
        return cls(what, table_mb, ours, bound, at_least, got, "×", low, high, quiet)

    def entry(self) -> dict[str, Any]:
        """Returns the claim as JSON values."""
        return {**asdict(self), "met": self.met}


def lookup_claims(
    table_mb: int, table_rows: int, contenders: Sequence[Mapping[str, Any]], policies: Sequence[str]
) -> list[Claim]:
    """Returns the claims on lookups alone, from the entries of `compare_lookups`."""
    by_name = {entry["name"]: entry for entry in contenders}

    def claim(what: str, said: str, bound: float, fast: str, slow: str, at_least: bool) -> list[Claim]:
        """How many times faster `fast` is than `slow`."""
        if fast not in by_name or slow not in by_name:
            return []
        tenth = [by_name[name]["quantiles_ms"]["10"] for name in (slow, fast)]
        ratio, quiet = by_name[fast]["speedups"][slow], tenth[0] / tenth[1]
        return [Claim.of(what, table_mb, said, bound, at_least, ratio, quiet)]

    claims = []
    for policy in policies:
        for suffix, said in (("", policy), ("-columns", f"{policy}, columns")):
            ours, floor = f"cache-{policy}{suffix}", f"floor{suffix}"
            claims += claim("time over the floor", said, FLOOR, floor, ours, False)
        for peer, said, bound in (*FASTER, *(MAPS if table_rows >= MAP_ROWS else ())):
            claims += claim(f"faster than {said}", policy, bound, f"cache-{policy}", peer, True)
    return claims
