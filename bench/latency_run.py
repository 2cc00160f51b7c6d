"""`bench latency`, from a bundle to a result: the machine, the peers on the dense part, the requests end to end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import structs

from pepnet_infer.bench import limits, machine
from pepnet_infer.bench.compare import compare
from pepnet_infer.bench.end_to_end import end_to_end, one_request
from pepnet_infer.bench.latency import Plan
from pepnet_infer.bench.latency_hits import hit_rates
from pepnet_infer.bench.overhead import call_overhead
from pepnet_infer.bench.peers import all_peers
from pepnet_infer.bench.peers.torch_cpu import reference
from pepnet_infer.bench.ratios import named_ratios
from pepnet_infer.bench.report import Result
from pepnet_infer.bench.workloads import dense_rows, row_bytes, rows_beyond_caches
from pepnet_infer.checked import Options, Several
from pepnet_infer.schema.cost import multiply_adds

if TYPE_CHECKING:
    from pepnet_infer.bundle.bundle import Bundle


class LatencyOptions(Options, frozen=True):
    """What the command was asked for."""

    batch_sizes: Sequence[Several]
    peers: Sequence[str]  # by name
    required: bool  # the peers were named: one that cannot run is an error
    baseline: str
    threads: Several
    plan: Plan
    end_to_end: bool = True
    seed: int = 0


def measure_latency(
    bundle: Bundle, name: str, command: str, options: LatencyOptions, say: Callable[[str], None] = lambda _: None
) -> Result:
    """Measures everything `bench latency` reports. `name` is what the bundle is called in the report.

    Needs torch, for the float64 truth. Raises BackendError for a required peer that cannot run.
    """
    widths, plan = bundle.config.inputs, options.plan
    # A baseline model's cost does not follow from its config.
    macs = multiply_adds(bundle.config, len(bundle.tasks)) if bundle.config.model == "pepnet" else None
    weights = sum(array.size for array in bundle.dense().values())
    say("measuring the machine")
    facts = machine.facts()
    known = {peer.name: peer for peer in all_peers()}
    peers = [known[name] for name in options.peers]
    precisions = [p for p in limits.BYTES if any(peer.precision == p for peer in peers)]
    before = measure_limits(options.threads, weights, precisions)
    rows = rows_beyond_caches(widths, max(options.batch_sizes))
    say(f"computing float64 scores of {rows} rows")
    inputs = dense_rows(widths, rows, options.seed)
    truth = reference(bundle, inputs)
    compared = compare(bundle, peers, inputs, truth, options.batch_sizes, options.threads, plan, options.required, say)
    whole: list[dict[str, Any]] = []
    busy_whole: dict[str, float] = {}
    hits: dict[str, Any] | None = None
    busy_hits: dict[int, float] = {}
    if options.end_to_end:
        whole, busy = end_to_end(bundle, options.batch_sizes, options.threads, plan, options.seed, say)
        request, busy_request = one_request(bundle, options.threads, plan, options.seed, say)
        whole += request
        busy_whole = {**{f"batch {size}": share for size, share in busy.items()}, "one request": busy_request}
        hits, busy_hits = hit_rates(bundle, options.batch_sizes, options.threads, plan, options.seed, say)
    overhead = call_overhead(bundle, name, options.threads, say)
    say("measuring the machine again")
    facts["limits"] = better(before, measure_limits(options.threads, weights, precisions))
    for row in compared.rows:
        row.update(_shares(row, macs, weights, facts["limits"]))
    return Result(
        kind="latency",
        command=command,
        machine=facts,
        data={
            "bundle": name,
            "schema_hash": bundle.schema.hash,
            "config": bundle.config.to_json(),
            "tasks": list(bundle.tasks),
            "multiply_adds_a_row": macs,
            "weights": weights,
            "threads": options.threads,
            "baseline": options.baseline,
            "plan": structs.asdict(plan),
            "seed": options.seed,
            "rotating_rows": rows,
            "rotating_bytes": rows * row_bytes(widths),
            "scores_std": float(truth.std()),
            "rows": compared.rows,
            "ratios": named_ratios(compared.rows),
            "missing": compared.missing,
            "others_busy": {
                **{f"batch {size}": share for size, share in compared.others_busy.items()},
                **{f"end to end, {what}": share for what, share in busy_whole.items()},
                **{f"hit rates, batch {size}": share for size, share in busy_hits.items()},
            },
            "end_to_end": whole,
            "hit_rates": hits,
            "overhead_us": overhead,
        },
    )


def measure_limits(threads: int, weights: int, precisions: Sequence[str]) -> dict[str, Any]:
    """Returns the machine's limits as they are now, with the rate of reading `weights` numbers in each precision."""
    peaks = {name: dataclasses.asdict(peak) for name, peak in limits.matrix_peaks(threads, precisions).items()}
    reads = {p: limits.weights_gbps(p, weights, threads) for p in precisions}
    return {"matrix": peaks, **limits.cache_and_memory(threads), "weights_read_gbps": reads}


def better(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Returns the higher of each limit: a limit is what is possible, and others may have been busy at either time."""
    merged: dict[str, Any] = {}
    for name, value in one.items():
        if name == "matrix":
            merged[name] = {p: max(value[p], other[name][p], key=lambda peak: float(peak["gflops"])) for p in value}
        elif isinstance(value, dict):
            merged[name] = {p: max(rate, other[name][p]) for p, rate in value.items()}
        else:
            merged[name] = max(value, other[name])
    return merged


def _shares(row: dict[str, Any], macs: int | None, weights: int, measured: dict[str, Any]) -> dict[str, Any]:
    """Returns the rates a row's p50 stands for, and what share of the measured limits they are; None if unknown."""
    seconds, precision = row["p50_ms"] / 1e3, row["precision"]
    gflops = None if macs is None else 2 * macs * row["batch"] / seconds / 1e9
    weights_gbps = weights * limits.BYTES[precision] / seconds / 1e9
    peak = measured["matrix"].get(precision)
    return {
        "gflops": gflops,
        "matrix_share": None if peak is None or gflops is None else gflops / peak["gflops"],
        "weights_gbps": weights_gbps,
        "read_share": weights_gbps / measured["weights_read_gbps"][precision],
    }
