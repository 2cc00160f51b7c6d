"""What was measured at given hit rates, as a table."""

from __future__ import annotations

from typing import Any

from pepnet_infer.bench.report import Table, show_ms

_WORDS = frozenset({"call", "precision", "cache", "enough"})


def hit_rate_table(data: dict[str, Any]) -> Table:
    """Returns the section `hit_rates` of a latency result as a table."""
    columns = (
        "call",
        "precision",
        "batch",
        "cache",
        "measured",
        "p50 ms",
        "p99 ms",
        "over dense",
        "95 %",
        "enough",
        "fetched a call",
        "runs",
    )
    cells = [
        (
            row["call"],
            row["precision"],
            str(row["batch"]),
            _cache(row),
            "–" if row["hit_rate"] is None else f"{row['hit_rate']:.4f}",
            show_ms(row["p50_ms"]),
            show_ms(row["p99_ms"]),
            f"{row['over_dense']:.1%}",
            f"{row['over_dense_low']:.1%}–{row['over_dense_high']:.1%}",
            "" if row["enough"] is None else "yes" if row["enough"] else "no",
            "–" if row["hit_rate"] is None else f"{row['fetched_a_call']:.0f}",
            str(row["runs"]),
        )
        for row in data["rows"]
    ]
    return Table("End to end at given hit rates", columns, cells, _WORDS, _note(data))


def _cache(row: dict[str, Any]) -> str:
    if row["call"] == "dense":
        return "–"
    return "none" if row["asked_hit_rate"] is None else f"hit rate {row['asked_hit_rate']:g}"


def _note(data: dict[str, Any]) -> str:
    asked = data["asked"]
    return (
        "Lookup: ids to rows in the three inputs. Over dense: its p50 over that of the dense part in its fastest "
        f"precision, in the same rounds; enough is at most {asked['over_dense']:.0%} at batch {asked['batch']} when "
        f"all hit. Cache: {data['policy']}, {data['cache_rows']} rows, {data['cache_bytes'] / 2**20:.0f} MiB, full. "
        f"Tables: {data['table_rows']} rows, {data['table_bytes'] / 2**20:.0f} MiB; ids that hit are {data['ids']}. "
        f"Store: {data['store']}. Measured: the hit rate by the engine's statistics. Fetched: distinct ids, of the "
        "store."
    )
