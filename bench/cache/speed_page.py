"""A result of `bench cache-speed` made readable."""

from __future__ import annotations

from typing import Any

from pepnet_infer.bench.harness import busy
from pepnet_infer.bench.harness.machine import machine_line, machine_table
from pepnet_infer.bench.harness.report import METHOD, Report, Table

_CLAIMS = {
    "requirement": "{what}",
    "table": "{table_mb} MiB",
    "policy": "{ours}",
    "asked": "{asked:}",
    "got": "{got_text:}",
    "95 %": "{spread:}",
    "10 %": "{quiet:.2f}×",
    "met": "{met_text}",
}
_LOOKUPS = {
    "who": "{name}",
    "p50 ms": "{p50_ms:ms}",
    "p99 ms": "{p99_ms:ms}",
    "ns a row": "{ns_a_row:.1f}",
    "10 %": "{tenth_ns_a_row:.1f}",
    "over floor": "{over_floor:.2f}×",
    "over cache-lru": "{over_ours:.2f}×",
    "runs": "{runs:d}",
    "what": "{what}",
}
_THREADS = {
    "policy": "{policy}",
    "load": "{load}",
    "M rows/s": "{million_rows:.2f}",
    "M updates/s": "{million_updates:.3f}",
    "p50 ms": "{p50_ms:ms}",
    "p99 ms": "{p99_ms:ms}",
    "calls": "{calls:d}",
}
_CACHES = {
    "policy": "{policy}",
    "table": "{table_mb} MiB",
    "capacity rows": "{capacity_rows:,}",
    "memory bytes": "{memory_bytes:,}",
    "metadata a row": "{metadata_bytes_a_row:.2f}",
    "offered": "{offered:,}",
    "resident": "{resident_share:.2%}",
    "fill": "{fill:.2%}",
}
_MISSES = {
    "table": "{table_mb} MiB",
    "missed": "{missed:d}",
    "p50 ms": "{p50_ms:ms}",
    "p99 ms": "{p99_ms:ms}",
    "runs": "{runs:d}",
}


def cache_speed_page(data: dict[str, Any], facts: dict[str, Any]) -> Report:
    """Returns the report of what `measure_cache_speed` found on a machine with `facts`."""
    tables, plan, slices = data["tables"], data["plan"], data["slices"]
    lookups = [table["lookups"] for table in tables]
    left_out = [
        {"name": name, "table": f"{entry['table_mb']} MiB", "why": why}
        for entry in lookups
        for name, why in entry["left_out"].items()
    ]
    misses = [
        {"table_mb": table["lookups"]["table_mb"], "missed": missed, **table["misses"][what]}
        for table in tables
        if "misses" in table
        for what, missed in (("hits", 0), ("misses", table["misses"]["missed"]))
    ]
    caches = [{"table_mb": entry["table_mb"], **cache} for entry in lookups for cache in entry["caches"]]
    huge = ", ".join(f"{t['huge_bytes'] >> 20} MiB at {t['lookups']['table_mb']} MiB" for t in tables)
    return Report(
        "cache-speed",
        "The embedding cache's speed",
        f"{data['rows']} rows of {data['dim']} float32 a call, uniform ids, all hits. {machine_line(facts)}; "
        f"{busy.noise(max(_busy(table) for table in tables))}.",
        data,
        facts,
        [
            Table("What was asked, and what came", [_claim(claim) for claim in data["claims"]], _CLAIMS),
            *(
                Table(f"Lookups, a table of {e['table_mb']} MiB, {e['table_rows']:,} rows", e["contenders"], _LOOKUPS)
                for e in lookups
            ),
            *([Table("Left out", left_out, ("name", "table", "why"))] if left_out else []),
        ],
        [
            *(_threads_table(table["lookups"]["table_mb"], table["threads"]) for table in tables),
            Table("Misses", misses, _MISSES, _SAYS_MISSES),
            Table("The caches", caches, _CACHES, "Resident: the share of the rows offered once that stayed."),
            *(_floor_table(entry) for entry in lookups),
            machine_table(facts),
        ],
        (
            f"At least {plan['runs']} timed calls of each and {plan['seconds']:g} s a table, after "
            f"{plan['warm_s'] * 1e3:g} ms of untimed ones. Threads: {slices['rounds']} rounds of slices of "
            f"{slices['seconds']:g} s. Transparent huge pages: {data['huge_pages']}; this process has on them: {huge}.",
            METHOD,
        ),
    )


_SAYS_MISSES = (
    "CachedRows.lookup before a store in memory, policy lru; a miss is fetched, served and written to the cache."
)


def _busy(table: dict[str, Any]) -> float:
    parts = [table["lookups"], *table["threads"].values(), *([table["misses"]] if "misses" in table else [])]
    return max(float(part["others_busy"]) for part in parts)


def _claim(claim: dict[str, Any]) -> dict[str, Any]:
    unit, side = claim["unit"], "≥" if claim["at_least"] else "≤"
    return {
        **claim,
        "asked": f"{side} {_number(claim['bound'])}{unit}",
        "got_text": f"{_number(claim['got'])}{unit}",
        "spread": "" if claim["low"] is None else f"{_number(claim['low'])}–{_number(claim['high'])}",
        "met_text": "yes" if claim["met"] else "NO",
    }


def _threads_table(mb: int, threads: dict[str, Any]) -> Table:
    rows = [
        {"policy": policy, "load": load, **entry}
        | {"million_rows": entry["rows_per_s"] / 1e6, "million_updates": entry["updates_per_s"] / 1e6}
        for policy, measured in threads.items()
        for load, entry in measured["loads"].items()
    ]
    floors = [f"{policy}: {measured['two_floors']['ratio']:.2f}×" for policy, measured in threads.items()]
    visible = {policy: measured["visibility"] for policy, measured in threads.items()}
    seen = [f"{p}: {v['p50_ms']:.3f}, {v['p99_ms']:.3f}, {v['max_ms']:.3f} ms" for p, v in visible.items()]
    note = (
        f"Two threads of the floor over one, which shows what the machine gives: {'; '.join(floors)}. "
        f"An update is seen after (p50, p99, longest): {'; '.join(seen)}."
    )
    return Table(f"Threads, a table of {mb} MiB", rows, _THREADS, note)


def _floor_table(lookups: dict[str, Any]) -> Table:
    rows: dict[int, dict[str, Any]] = {}
    for way in lookups["floor"]["sweep"]:
        rows.setdefault(way["ahead"], {"ahead": way["ahead"]})[f"w{way['width']}"] = way["ns_a_row"]
    columns = {f"{name[1:]} bytes a move": f"{{{name}:.1f}}" for name in next(iter(rows.values())) if name != "ahead"}
    title = f"The floor, ns a row, {lookups['table_mb']} MiB"
    return Table(title, list(rows.values()), {"rows ahead": "{ahead}", **columns})


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
