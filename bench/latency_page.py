"""A latency result made readable."""

from __future__ import annotations

from typing import Any

from pepnet_infer.bench.latency_hits_table import hit_rate_table
from pepnet_infer.bench.machine_table import machine_line, machine_table
from pepnet_infer.bench.ratios import ratio_table, share
from pepnet_infer.bench.report import Page, Result, Table, show_ms

#: Share of the CPUs that others may use without spoiling a measurement.
QUIET = 0.05
#: The most that a peer may reach of a limit that was measured as well as the peer was.
BEYOND = 1.05
_WORDS = frozenset({"peer", "precision", "call", "engine", "reason", "what is run", "settings"})


def latency_page(result: Result, picture: bytes | None = None) -> Page:
    """Returns the page of a result of kind "latency"."""
    data = result.data
    sizes = list(dict.fromkeys(row["batch"] for row in data["rows"]))
    tables = [_dense_table(data, size) for size in sizes]
    if data.get("ratios"):
        tables.append(ratio_table(data["ratios"]))
    if data["end_to_end"]:
        tables.append(_end_to_end_table(data["end_to_end"]))
    if data.get("hit_rates"):
        tables.append(hit_rate_table(data["hit_rates"]))
    if data.get("overhead_us"):
        tables.append(_overhead_table(data["overhead_us"]))
    if data["missing"]:
        tables.append(_missing_table(data["missing"]))
    return Page(
        title=f"Latency of {data['bundle']}",
        lead=f"{_cost(data)}, {len(data['tasks'])} tasks. {machine_line(result.machine)}, {data['threads']} threads "
        "for every peer.",
        command=result.command,
        tables=tables,
        details=(
            *(_matrix_table(data, size) for size in sizes),
            _times_table(data),
            _peers_table(data),
            machine_table(result.machine),
        ),
        notes=_notes(result),
        picture=picture,
        picture_says="Median and 99th percentile of each peer's latency by batch size; the tables give the figures.",
    )


def noise(data: dict[str, Any]) -> str:
    """Says how quiet the machine was, for the reader to judge the figures by."""
    busiest = max(data["others_busy"].values(), default=0.0)
    unsettled = sum(row["unsettled"] for row in data["rows"])
    turns = f", {unsettled} turns began before other pools had gone to sleep" if unsettled else ""
    warning = "" if busiest <= QUIET else ": too much for figures that are to be relied on"
    return f"other processes used {busiest:.0%} of the CPUs at most{turns}{warning}{_beyond_limits(data)}"


def _beyond_limits(data: dict[str, Any]) -> str:
    """Says which rows passed a measured limit by more than noise: the limit was measured in a slow moment then."""
    beyond = [
        f"; {row['peer']} at batch {row['batch']} reached {most:.0%} of a limit of the machine, measured too low"
        for row in data["rows"]
        if (most := max(row["matrix_share"] or 0.0, row["read_share"])) > BEYOND
    ]
    return "".join(beyond)


def _dense_table(data: dict[str, Any], size: int) -> Table:
    base = data["baseline"]
    columns = (
        "peer",
        "precision",
        "p50 ms",
        "p99 ms",
        "speed-up",
        "max error",
        "rms error",
        "matrix peak",
        "weights read",
    )
    rows = [
        (
            row["peer"],
            row["precision"],
            show_ms(row["p50_ms"]),
            show_ms(row["p99_ms"]),
            _speedup(row, base)[0],
            f"{row['max_abs']:.1e}",
            f"{row['rms']:.1e}",
            share(row["matrix_share"]),
            share(row["read_share"]),
        )
        for row in data["rows"]
        if row["batch"] == size
    ]
    return Table(f"Dense part, batch {size}; speed-up against {base}", columns, rows, _WORDS)


def _end_to_end_table(rows: list[dict[str, Any]]) -> Table:
    columns = ("call", "engine", "batch", "p50 ms", "p99 ms", "speed-up", "encode ms", "lookup ms", "dense ms", "runs")
    cells = [
        (
            row["call"],
            f"{row['backend']} {row['precision']}" if "backend" in row else "–",
            str(row["batch"]),
            show_ms(row["p50_ms"]),
            show_ms(row["p99_ms"]),
            _over_score(row),
            *(show_ms(row["stages_ms"][stage]) for stage in ("encode", "lookup", "dense")),
            str(row["runs"]),
        )
        for row in rows
    ]
    note = (
        "score: a batch of columns; rank: one user's request with that many candidates; score_dense: inputs that are "
        "embedded already. Score request: the rows of rank request as a batch of columns, the user's repeated. "
        "Speed-up: of rank over score on them. Stages are means, from the engine's own counters."
    )
    return Table("End to end, ids in", columns, cells, _WORDS, note)


def _over_score(row: dict[str, Any]) -> str:
    """Returns how much faster one request is as `rank` than as `score` of the same rows."""
    entry = row["speedups"]["score request"] if row["call"] == "rank request" else None
    return "" if entry is None else f"{entry['ratio']:.2f}× ({entry['low']:.2f}–{entry['high']:.2f})"


def _overhead_table(entries: list[dict[str, Any]]) -> Table:
    columns = ("model", "batch", "overhead µs", "95 %", "99th percentile", "call µs", "C++ µs", "calls")
    cells = [
        (
            entry["model"],
            str(entry["rows"]),
            f"{entry['overhead_us']:.1f}",
            f"{entry['low']:.1f}–{entry['high']:.1f}",
            f"{entry['p99_us']:.1f}",
            f"{entry['score_dense_us']:.1f}",
            f"{entry['run_us']:.1f}",
            str(entry["calls"]),
        )
        for entry in entries
    ]
    note = (
        "A call of score_dense less the run of the C++ model within it, native fp32: median, its 95 % interval "
        "and 99th percentile; then the medians of the two."
    )
    return Table("Overhead of a call of score_dense", columns, cells, frozenset({"model"}), note)


def _missing_table(missing: list[dict[str, Any]]) -> Table:
    cells = [(entry["peer"], str(entry["batch"]), entry["reason"]) for entry in missing]
    return Table("Peers without a figure", ("peer", "batch", "reason"), cells, _WORDS)


def _matrix_table(data: dict[str, Any], size: int) -> Table:
    rows = [row for row in data["rows"] if row["batch"] == size]
    names = [row["peer"] for row in rows]
    cells = [(row["peer"], *(" ".join(_speedup(row, other)) for other in names)) for row in rows]
    title = f"Speed-up of every peer (row) against every other (column), batch {size}, with 95 % intervals"
    return Table(title, ("peer", *names), cells, _WORDS)


def _times_table(data: dict[str, Any]) -> Table:
    marks = ("0", "25", "50", "75", "90", "99", "100")
    cells = [
        (
            row["peer"],
            str(row["batch"]),
            str(row["runs"]),
            show_ms(row["mean_ms"]),
            *(show_ms(row["quantiles_ms"][mark]) for mark in marks),
            f"{row['rows_per_s']:.0f}",
        )
        for row in data["rows"]
    ]
    columns = ("peer", "batch", "runs", "mean", "min", "25 %", "50 %", "75 %", "90 %", "99 %", "max", "rows/s")
    return Table("Times in milliseconds", columns, cells, _WORDS)


def _peers_table(data: dict[str, Any]) -> Table:
    seen: dict[str, tuple[str, ...]] = {}
    for row in data["rows"]:
        settings = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
        seen.setdefault(
            row["peer"], (row["peer"], row["how"], settings, f"{row['load_s']:.1f}", str(row["rows_checked"]))
        )
    columns = ("peer", "what is run", "settings", "load s", "rows checked")
    return Table("Peers", columns, list(seen.values()), _WORDS, "Load includes the first call, in which some compile.")


def _notes(result: Result) -> tuple[str, ...]:
    data, plan = result.data, result.data["plan"]
    return (
        f"All peers in one process, interleaved call by call in balanced order; at least {plan['runs']} timed calls "
        f"each and {plan['seconds']:g} s a batch size; before each timed call untimed ones, {plan['warm_calls']} and "
        f"{plan['warm_s'] * 1e3:g} ms at least; a turn begins only when all pools are asleep ({noise(data)}).",
        f"Inputs are standard normal and rotate through {data['rotating_rows']} rows, "
        f"{data['rotating_bytes'] / 2**20:.0f} MiB. Every timed output was checked against float64.",
        "Errors are differences of scores from torch float64 on the same rows for every peer; the scores' own standard "
        f"deviation there is {data['scores_std']:.2f}.",
        f"Speed-up: the p50 of {data['baseline']} over the peer's p50, above 1 is faster; intervals by bootstrap over "
        "rounds. p99 of few runs lies just below the slowest.",
        "Matrix peak: 2 × multiply-adds over p50, as a share of the best plain matrix product that any library here or "
        "our own kernels reached in that precision. Weights read: their bytes over p50, as a share of the best read of "
        "as many, again and again, by a plain loop or by a product of one row.",
    )


def _cost(data: dict[str, Any]) -> str:
    macs = data["multiply_adds_a_row"]
    known = "" if macs is None else f"{macs / 1e6:.2f} M multiply-adds a row, "
    return f"{known}{data['weights'] / 1e6:.2f} M weights"


def _speedup(row: dict[str, Any], other: str) -> tuple[str, str]:
    """Returns the ratio and its interval as text."""
    if row["peer"] == other:
        return "1×", ""
    entry = row["speedups"].get(other)
    if entry is None:
        return "–", ""
    return f"{entry['ratio']:.2f}×", f"({entry['low']:.2f}–{entry['high']:.2f})"
