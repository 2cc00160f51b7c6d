"""What was asked of the cache's speed and what came, one row a requirement, table and policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pepnet_infer.bench.harness.measure import Row
from pepnet_infer.bench.harness.statistics import Ratio

#: Updates a second of the writer that readers are beside.
UPDATES_A_SECOND = 100_000
READERS_UPDATED = f"2 readers over 1, {UPDATES_A_SECOND:,} updates/s"
#: Requirement → its bound, whether it is at least or at most that, and the unit.
ASKED = {
    "time over the floor": (1.6, False, "×"),
    "faster than NumPy table[idx]": (2.0, True, "×"),
    "faster than std::unordered_map + std::list LRU": (5.0, True, "×"),
    "faster than cachetools": (20.0, True, "×"),
    "faster than theine": (20.0, True, "×"),
    "faster than robin map + arena, same bookkeeping": (2.0, True, "×"),
    "faster than abseil map + arena, same bookkeeping": (2.0, True, "×"),
    "2 readers over 1": (1.8, True, "×"),
    READERS_UPDATED: (1.6, True, "×"),
    "updates by one writer": (2e6, True, " rows/s"),
    "reader p99 beside a writer": (1.2, False, "×"),
    "an update is seen after": (10.0, False, " ms"),
    "time with 10 % misses over none": (2.0, False, "×"),
    "metadata a row": (24.0, False, " bytes"),
}
#: Peer → the requirement that names it, and the rows of a table from which on it is asked.
PEERS = {
    "numpy-index": ("faster than NumPy table[idx]", 0),
    "list-lru": ("faster than std::unordered_map + std::list LRU", 0),
    "cachetools": ("faster than cachetools", 0),
    "theine": ("faster than theine", 0),
    "robin-map": ("faster than robin map + arena, same bookkeeping", 5_000_000),
    "absl-map": ("faster than abseil map + arena, same bookkeeping", 5_000_000),
}


def claim(what: str, table_mb: int, ours: str, got: float | Ratio, quiet: float | None = None) -> Row:
    """Returns a requirement and what came of it, with the middle 95 % where it is a ratio.

    ours: the policy, and the destination where it is not one array. quiet: the same of the 10 % quantiles instead of
    the medians, nearer to a quiet machine, where this one was not.
    """
    bound, at_least, unit = ASKED[what]
    value, low, high = (got["ratio"], got["low"], got["high"]) if isinstance(got, dict) else (got, None, None)
    row = {"what": what, "table_mb": table_mb, "ours": ours, "bound": bound, "at_least": at_least, "unit": unit}
    row |= {"got": value, "low": low, "high": high, "quiet": quiet}
    return row | {"met": value >= bound if at_least else value <= bound}


def lookup_claims(
    table_mb: int, table_rows: int, contenders: Sequence[Mapping[str, Any]], policies: Sequence[str]
) -> list[Row]:
    """Returns the claims on lookups alone, from the rows of `compare_lookups`; a peer must be there to be asked."""
    by_name, claims = {entry["name"]: entry for entry in contenders}, []

    def ask(what: str, said: str, fast: str, slow: str) -> None:
        """How many times faster `fast` is than `slow`."""
        if fast in by_name and slow in by_name:
            above, below = (by_name[name]["quantiles_ms"]["10"] for name in (slow, fast))
            claims.append(claim(what, table_mb, said, by_name[fast]["speedups"][slow], above / below))

    for policy in policies:
        ask("time over the floor", policy, "floor", f"cache-{policy}")
        ask("time over the floor", f"{policy}, columns", "floor-columns", f"cache-{policy}-columns")
        for peer, (what, rows) in PEERS.items():
            if table_rows >= rows:
                ask(what, policy, f"cache-{policy}", peer)
    return claims
