"""`bench latency`, from a bundle to figures: the machine, the peers on the dense part, the requests end to end."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from msgspec import structs

from pepnet_infer.backends.native import rows_of_all_precisions
from pepnet_infer.bench.harness import machine
from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.harness.measure import Row, Say
from pepnet_infer.bench.harness.report import TIMES, Report, Table
from pepnet_infer.bench.harness.workloads import rows_beyond_caches
from pepnet_infer.bench.latency import limits
from pepnet_infer.bench.latency.dense import compare
from pepnet_infer.bench.latency.overhead import call_overhead
from pepnet_infer.bench.latency.peers import PEERS, own_peer, reference
from pepnet_infer.bench.latency.requests import end_to_end
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.network.cost import multiply_adds
from pepnet_infer.validation import Options, Several

#: The peers that ratios are printed against: what people run today, and the fastest of the others.
BASELINES = ("onnxruntime", "openvino-bf16")
#: The most that a peer may reach of a limit that was measured as well as the peer was.
BEYOND = 1.05
_REQUESTS = {
    "call": "{name}",
    "backend": "{backend}",
    "batch": "{batch:d}",
    "p50 ms": "{p50_ms:ms}",
    "95 %": "{low_ms:ms}–{high_ms:ms}",
    "p99 ms": "{p99_ms:ms}",
    "rank over score": "{over_score:ratio}",
    "hit rate": "{hit_rate:.3f}",
    "encode ms": "{stages_ms[encode]:ms}",
    "lookup ms": "{stages_ms[lookup]:ms}",
    "dense ms": "{stages_ms[dense]:ms}",
    "runs": "{runs:d}",
}
_OVERHEAD = {
    "batch": "{batch:d}",
    "overhead µs": "{p50_ms:us}",
    "95 %": "{low_ms:us}–{high_ms:us}",
    "99 % µs": "{p99_ms:us}",
    "calls": "{runs:d}",
}
_MISSING = {"peer": "{name}", "batch": "{batch:d}", "reason": "{reason}"}
_ABOUT_REQUESTS = (
    "One user's request, by rank and as its rows by score. Hit rate and stages: means of all calls. A miss evicts "
    "nothing: before the call the cache forgot the rows that are to miss, so there is room."
)
_ABOUT_OVERHEAD = "A call of score_dense less the run of the C++ model within it, native fp32."


class LatencyOptions(Options, frozen=True):
    """What the command was asked for."""

    batch_sizes: Sequence[Several]
    peers: Sequence[str]  # by name
    threads: Several
    plan: Plan
    own: Sequence[str] = ()  # MODULE:BUILD of one's own peers
    required: Sequence[str] = ()  # peers of which one that cannot run is an error
    end_to_end: bool = True
    quick: bool = False  # the dense part and nothing else, beside limits that are measured once and shortly
    seed: int = 0


def measure_latency(bundle: Bundle, name: str, options: LatencyOptions, say: Say = lambda _: None) -> Report:
    """Measures everything `bench latency` reports. `name` is what the bundle is called in the report.

    Needs torch, for the float64 truth. Raises BackendError for a required peer that cannot run.
    """
    plan, threads, sizes, seed = options.plan, options.threads, options.batch_sizes, options.seed
    macs = multiply_adds(bundle.network)
    weights = sum(array.size for array in bundle.dense().values())
    peers = [*(PEERS[peer] for peer in options.peers), *map(own_peer, options.own)]
    rotating = 4 * max(sizes) if options.quick else rows_beyond_caches(bundle.config.inputs, max(sizes))
    say(f"computing float64 scores of {rotating} rows")
    inputs = rows_of_all_precisions(bundle, rotating, seed)
    truth = reference(bundle, inputs)
    say("measuring the machine")
    precisions = [precision for precision in limits.BYTES if any(peer.precision == precision for peer in peers)]
    facts = machine.facts() | {"limits": limits.measure_limits(threads, weights, precisions, options.quick)}
    required = (*options.required, *options.own)
    dense = {size: compare(bundle, peers, inputs, truth, size, threads, plan, required, say) for size in sizes}
    asked = sizes if options.end_to_end and not options.quick else ()
    whole = [end_to_end(bundle, size, threads, plan, seed, say) for size in asked]
    rows = [row for figures in dense.values() for row in figures.rows.values()]
    if not options.quick:
        say("measuring the machine again")
        facts["limits"] = limits.better(facts["limits"], limits.measure_limits(threads, weights, precisions, False))
    for row in rows:
        row |= _shares(row, macs, weights, facts["limits"])
    data: dict[str, Any] = {
        "bundle": name,
        "tasks": list(bundle.tasks),
        "config": bundle.config.to_json(),
        "multiply_adds_a_row": macs,
        "weights": weights,
        "threads": threads,
        "plan": structs.asdict(plan),
        "seed": seed,
        "rotating_rows": rotating,
        "rows": rows,
        "missing": [
            {"name": peer, "batch": size, "reason": why}
            for size, figures in dense.items()
            for peer, why in figures.failed.items()
        ],
        "end_to_end": [row for figures in whole for row in figures.rows.values()],
        "overhead": [] if options.quick else call_overhead(bundle, threads, say),
        "others_busy": max(figures.others_busy for figures in (*dense.values(), *whole)),
    }
    tables = [
        *(Table(f"Dense part, batch {size}", [*of.rows.values()], _columns(of.rows)) for size, of in dense.items()),
        Table("End to end, ids in", data["end_to_end"], _REQUESTS, _ABOUT_REQUESTS),
        Table("Overhead of a call of score_dense", data["overhead"], _OVERHEAD, _ABOUT_OVERHEAD),
        Table("Peers without a figure", data["missing"], _MISSING),
    ]
    cost = [f"{macs / 1e6:.2f} M multiply-adds a row"] if macs else []
    cost += [f"{weights / 1e6:.2f} M weights", f"{len(bundle.tasks)} tasks"]
    return Report(
        "latency",
        f"Latency of {name}",
        f"{', '.join(cost)}. {threads} threads for every peer; {_noise(rows, data['others_busy'])}.",
        data,
        [table for table in tables if table.rows],
        notes=[
            f"At least {plan.runs} timed calls of each and {plan.seconds:g} s a batch size, after untimed ones, "
            f"{plan.warm_calls} and {plan.warm_s * 1e3:g} ms at least; inputs of {rotating} rows.",
        ],
        picture=lambda: _picture(data, machine.machine_line(facts)),
        machine=facts,
    )


def _shares(row: Row, macs: int | None, weights: int, measured: dict[str, Any]) -> dict[str, float | None]:
    """Returns what shares of the measured limits a row's p50 stands for; None where one is not known."""
    seconds, precision = row["p50_ms"] / 1e3, row["precision"]
    peak, read = measured["matrix"].get(precision), measured["read_gbps"].get(f"{precision} weights")
    return {
        "matrix_share": 2 * macs * row["batch"] / seconds / 1e9 / peak[0] if peak and macs else None,
        "read_share": weights * limits.BYTES[precision] / seconds / 1e9 / read if read else None,
    }


def _noise(rows: Sequence[Row], others_busy: float) -> str:
    """Says how quiet the machine was, and which rows passed a limit that was measured in a slow moment then."""
    said = machine.noise(others_busy, sum(row["unsettled"] for row in rows))
    for row in rows:
        most = max(row["matrix_share"] or 0.0, row["read_share"] or 0.0)
        if most > BEYOND:
            limit = f"reached {most:.0%} of a limit of the machine, measured too low"
            said += f"; {row['name']} at batch {row['batch']} {limit}"
    return said


def _columns(measured: Container[str]) -> dict[str, str]:
    """The columns of the dense part: how many times faster than each baseline that was measured, and at what error."""
    faster = {f"over {name}": f"{{speedups[{name}]:ratio}}" for name in BASELINES if name in measured}
    errors = {"max error": "{max_abs:.1e}", "rms error": "{rms:.1e}"}
    shares = {"matrix peak": "{matrix_share:.0%}", "weights read": "{read_share:.0%}"}
    return {"peer": "{name}", "precision": "{precision}", **TIMES, **faster, **errors, **shares}


def _picture(data: dict[str, Any], machine: str) -> bytes:
    """Returns a PNG: a line for each peer's p50 over the batch sizes, dashed in a narrower precision than fp32."""
    from pepnet_infer.bench.harness.pictures import Chart, Line, draw_lines

    lines = []
    for name, precision in {row["name"]: row["precision"] for row in data["rows"]}.items():
        rows = [row for row in data["rows"] if row["name"] == name]
        sizes, times = [row["batch"] for row in rows], [row["p50_ms"] for row in rows]
        lines.append(Line(name, sizes, times, name.removesuffix(f"-{precision}"), precision != "fp32"))
    ticks = [(size, str(size)) for size in dict.fromkeys(row["batch"] for row in data["rows"])]
    chart = Chart("Dense part, median", "rows", "ms", lines, ticks, log=True)
    subtitle = f"{machine}, {data['threads']} threads for every peer; narrower precisions are dashed"
    return draw_lines(f"Latency of {data['bundle']}", subtitle, [chart])
