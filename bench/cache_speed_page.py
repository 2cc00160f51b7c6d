"""A result of `bench cache-speed` made readable."""

from __future__ import annotations

from typing import Any

from pepnet_infer.bench.machine_table import machine_line, machine_table
from pepnet_infer.bench.report import Page, Result, Table, show_ms

#: Share of the CPUs that others may use without spoiling a measurement.
QUIET = 0.05
_WORDS = frozenset({"requirement", "policy", "who", "what", "met", "left out", "why", "load"})


def cache_speed_page(result: Result) -> Page:
    """Returns the page of a result of kind "cache-speed"."""
    data = result.data
    tables = [_claims_table(data)]
    tables += [_lookup_table(table["lookups"]) for table in data["tables"]]
    left_out = [(name, why, table["lookups"]["table_mb"]) for table in data["tables"] for name, why in _left(table)]
    if left_out:
        rows = [(name, f"{mb} MiB", why) for name, why, mb in left_out]
        tables.append(Table("Left out", ("left out", "table", "why"), rows, _WORDS))
    details = [_threads_table(table["lookups"]["table_mb"], table["threads"]) for table in data["tables"]]
    details += [_misses_table([table for table in data["tables"] if "misses" in table])]
    details += [_caches_table(data), *(_floor_table(table["lookups"]) for table in data["tables"])]
    return Page(
        title="The embedding cache's speed",
        lead=f"{data['rows']} rows of {data['dim']} float32 a call, uniform ids, all hits. "
        f"{machine_line(result.machine)}; {noise(data)}.",
        command=result.command,
        tables=tables,
        details=(*details, machine_table(result.machine)),
        notes=_notes(data),
    )


def noise(data: dict[str, Any]) -> str:
    """Says how quiet the machine was, for the reader to judge the figures by."""
    shares = [table["lookups"]["others_busy"] for table in data["tables"]]
    shares += [threads["others_busy"] for table in data["tables"] for threads in table["threads"].values()]
    shares += [table["misses"]["others_busy"] for table in data["tables"] if "misses" in table]
    busiest = max(shares)
    warning = "" if busiest <= QUIET else ": too much for figures that are to be relied on"
    return f"other processes used {busiest:.0%} of the CPUs at most{warning}"


def _claims_table(data: dict[str, Any]) -> Table:
    rows = []
    for claim in data["claims"]:
        side = "≥" if claim["at_least"] else "≤"
        spread = "" if claim["low"] is None else f"{_number(claim['low'])}–{_number(claim['high'])}"
        unit = claim["unit"]
        rows.append(
            (
                claim["what"],
                f"{claim['table_mb']} MiB",
                claim["ours"],
                f"{side} {_number(claim['bound'])}{unit}",
                f"{_number(claim['got'])}{unit}",
                spread,
                "" if claim["quiet"] is None else f"{claim['quiet']:.2f}×",
                "yes" if claim["met"] else "NO",
            )
        )
    columns = ("requirement", "table", "policy", "asked", "got", "95 %", "10 %", "met")
    return Table("What was asked, and what came", columns, rows, _WORDS)


def _lookup_table(lookups: dict[str, Any]) -> Table:
    by_name = {entry["name"]: entry for entry in lookups["contenders"]}
    ours = by_name["cache-lru"]
    rows = [
        (
            entry["name"],
            entry["what"],
            show_ms(entry["p50_ms"]),
            show_ms(entry["p99_ms"]),
            f"{entry['ns_a_row']:.1f}",
            f"{entry['quantiles_ms']['10'] * 1e6 / lookups['rows']:.1f}",
            f"{entry['p50_ms'] / by_name['floor']['p50_ms']:.2f}×",
            f"{entry['p50_ms'] / ours['p50_ms']:.2f}×",
            str(entry["runs"]),
        )
        for entry in lookups["contenders"]
    ]
    columns = ("who", "what", "p50 ms", "p99 ms", "ns a row", "10 %", "over floor", "over cache-lru", "runs")
    title = f"Lookups, a table of {lookups['table_mb']} MiB, {lookups['table_rows']:,} rows"
    return Table(title, columns, rows, _WORDS)


def _threads_table(mb: int, threads: dict[str, Any]) -> Table:
    rows = []
    for policy, measured in threads.items():
        for load, entry in measured["loads"].items():
            rows.append(
                (
                    policy,
                    load,
                    f"{entry['rows_per_s'] / 1e6:.2f}",
                    f"{entry['updates_per_s'] / 1e6:.3f}",
                    "–" if entry["p50_ms"] is None else show_ms(entry["p50_ms"]),
                    "–" if entry["p99_ms"] is None else show_ms(entry["p99_ms"]),
                    str(entry["calls"]),
                )
            )
    columns = ("policy", "load", "M rows/s", "M updates/s", "p50 ms", "p99 ms", "calls")
    floors = [f"{policy}: {measured['two_floors']['ratio']:.2f}×" for policy, measured in threads.items()]
    marks = ("p50_ms", "p99_ms", "max_ms")
    visible = "visibility"
    seen = [f"{p}: {', '.join(f'{m[visible][mark]:.3f}' for mark in marks)} ms" for p, m in threads.items()]
    note = (
        f"Two threads of the floor over one, which shows what the machine gives: {'; '.join(floors)}. "
        f"An update is seen after (p50, p99, longest): {'; '.join(seen)}."
    )
    return Table(f"Threads, a table of {mb} MiB", columns, rows, _WORDS, note)


def _misses_table(tables: list[dict[str, Any]]) -> Table:
    rows = []
    for table in tables:
        for what, missed in (("hits", 0), ("misses", table["misses"]["missed"])):
            times = table["misses"][what]
            size = f"{table['lookups']['table_mb']} MiB"
            rows.append((size, str(missed), show_ms(times["p50_ms"]), show_ms(times["p99_ms"]), str(times["runs"])))
    note = "CachedRows.lookup before a store in memory, policy lru; a miss is fetched, served and written to the cache."
    return Table("Misses", ("table", "missed", "p50 ms", "p99 ms", "runs"), rows, note=note)


def _caches_table(data: dict[str, Any]) -> Table:
    rows = [
        (
            cache["policy"],
            f"{table['lookups']['table_mb']} MiB",
            f"{cache['capacity_rows']:,}",
            f"{cache['memory_bytes']:,}",
            f"{cache['metadata_bytes_a_row']:.2f}",
            f"{cache['offered']:,}",
            f"{cache['resident_share']:.2%}",
            f"{cache['fill']:.2%}",
        )
        for table in data["tables"]
        for cache in table["lookups"]["caches"]
    ]
    columns = ("policy", "table", "capacity rows", "memory bytes", "metadata a row", "offered", "resident", "fill")
    return Table("The caches", columns, rows, _WORDS, "Resident: the share of the rows offered once that stayed.")


def _floor_table(lookups: dict[str, Any]) -> Table:
    ways = lookups["floor"]["sweep"]
    widths = sorted({way["width"] for way in ways})
    took = {(way["ahead"], way["width"]): way["ns_a_row"] for way in ways}
    rows = [
        (str(ahead), *(f"{took[ahead, width]:.1f}" for width in widths)) for ahead in sorted({w["ahead"] for w in ways})
    ]
    columns = ("rows ahead", *(f"{width} bytes a move" for width in widths))
    return Table(f"The floor, ns a row, {lookups['table_mb']} MiB", columns, rows)


def _left(table: dict[str, Any]) -> list[tuple[str, str]]:
    return list(table["lookups"]["left_out"].items())


def _notes(data: dict[str, Any]) -> tuple[str, ...]:
    plan, slices = data["plan"], data["slices"]
    huge = ", ".join(f"{t['huge_bytes'] >> 20} MiB at {t['lookups']['table_mb']} MiB" for t in data["tables"])
    return (
        f"All in one process and one thread, interleaved call by call in balanced order; at least {plan['runs']} timed "
        f"calls each and {plan['seconds']:g} s a table; {plan['warm_s'] * 1e3:g} ms of untimed calls before each timed "
        "one. Every call has fresh uniform ids that all caches hold; every timed output was compared with the table.",
        "The floor is the fastest of the gathers of known positions in the table below, on pages as the cache's "
        f"(transparent huge pages: {data['huge_pages']}; this process has on huge pages: {huge}).",
        "Caches: policies lru and gset (scores given), counting and the policy's bookkeeping on; `core-*` is the call "
        "of the extension without EmbeddingCache around it. `*-columns` writes to the columns of a model's input "
        "matrix, one call for each 1024 ids.",
        "Python caches: keys are Python integers already, rows are views of the table.",
        f"Threads: {slices['rounds']} rounds of slices of {slices['seconds']:g} s in balanced order; ratios are "
        "medians over rounds. Writers apply batches of 1024 newer versions: the paced one at its rate, the other "
        "without a pause.",
        "Ratio: the other's p50 over ours; 95 %: by bootstrap over rounds; 10 %: of the 10 % quantiles instead of the "
        "medians, which other processes disturb less.",
        "Metadata: all of the cache's memory but the rows' own bytes. An entry has 24 bytes; the rest is what the "
        "cache needs for parts of itself: regions, spare slots, places of readers.",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
