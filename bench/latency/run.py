"""`bench latency`, from a bundle to figures: the machine, the peers on the dense part, the requests end to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import structs

from pepnet_infer.bench.harness import machine
from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.harness.measure import Figures, Row, Say
from pepnet_infer.bench.harness.report import Report
from pepnet_infer.bench.harness.workloads import rows_beyond_caches
from pepnet_infer.bench.latency import limits
from pepnet_infer.bench.latency.dense import compare
from pepnet_infer.bench.latency.overhead import call_overhead
from pepnet_infer.bench.latency.page import latency_page
from pepnet_infer.bench.latency.peers import PEERS, own_peer, reference
from pepnet_infer.bench.latency.requests import end_to_end
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.schema.network_config import multiply_adds
from pepnet_infer.validation import Options, Several


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
    # A baseline model's cost does not follow from its config.
    macs = multiply_adds(bundle.config, len(bundle.tasks)) if bundle.config.model == "pepnet" else None
    weights = sum(array.size for array in bundle.dense().values())
    peers = [*(PEERS[peer] for peer in options.peers), *map(own_peer, options.own)]
    rotating = 4 * max(sizes) if options.quick else rows_beyond_caches(bundle.config.inputs, max(sizes))
    say(f"computing float64 scores of {rotating} rows")
    inputs = normal_inputs(bundle.config.inputs, rotating, seed)
    truth = reference(bundle, inputs)
    say("measuring the machine")
    precisions = [precision for precision in limits.BYTES if any(peer.precision == precision for peer in peers)]
    facts = machine.facts() | {"limits": limits.measure_limits(threads, weights, precisions, options.quick)}
    required = (*options.required, *options.own)
    dense = {size: compare(bundle, peers, inputs, truth, size, threads, plan, required, say) for size in sizes}
    whole: list[Figures] = []
    if options.end_to_end and not options.quick:
        whole = [end_to_end(bundle, size, threads, plan, seed, say) for size in sizes]
    rows = [row for figures in dense.values() for row in figures.rows.values()]
    if not options.quick:
        say("measuring the machine again")
        facts["limits"] = limits.better(facts["limits"], limits.measure_limits(threads, weights, precisions, False))
    for row in rows:
        row |= _shares(row, macs, weights, facts["limits"])
    data = {
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
    return latency_page(data, facts)


def _shares(row: Row, macs: int | None, weights: int, measured: dict[str, Any]) -> dict[str, float | None]:
    """Returns what shares of the measured limits a row's p50 stands for; None where one is not known."""
    seconds, precision = row["p50_ms"] / 1e3, row["precision"]
    peak, read = measured["matrix"].get(precision), measured["weights_read_gbps"].get(precision)
    return {
        "matrix_share": 2 * macs * row["batch"] / seconds / 1e9 / peak["gflops"] if peak and macs else None,
        "read_share": weights * limits.BYTES[precision] / seconds / 1e9 / read if read else None,
    }
