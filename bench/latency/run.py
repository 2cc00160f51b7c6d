"""`bench latency`, from a bundle to figures: the machine, the peers on the dense part, the requests end to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import structs

from pepnet_infer.bench.harness import machine
from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.harness.measure import Figures, Row, Say
from pepnet_infer.bench.harness.report import Report
from pepnet_infer.bench.harness.workloads import dense_rows, row_bytes, rows_beyond_caches
from pepnet_infer.bench.latency import limits
from pepnet_infer.bench.latency.dense import compare
from pepnet_infer.bench.latency.hits import hit_rates
from pepnet_infer.bench.latency.overhead import call_overhead
from pepnet_infer.bench.latency.page import latency_page
from pepnet_infer.bench.latency.peers import all_peers, own_peer, reference
from pepnet_infer.bench.latency.requests import end_to_end, one_request
from pepnet_infer.schema.network_config import multiply_adds
from pepnet_infer.validation import Options, Several

if TYPE_CHECKING:
    from pepnet_infer.bundle.bundle import Bundle

#: Our precisions and the peers to beat: the fastest in like precision, what people run today, the next precision down.
PAIRS = (
    ("engine-native-bf16", "openvino-bf16"),
    ("engine-native-bf16", "onnxruntime"),
    ("engine-native", "onnxruntime"),
    ("engine-native-int8", "engine-native-bf16"),
)


class LatencyOptions(Options, frozen=True):
    """What the command was asked for."""

    batch_sizes: Sequence[Several]
    peers: Sequence[str]  # by name
    baseline: str
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
    widths, plan, threads, sizes = bundle.config.inputs, options.plan, options.threads, options.batch_sizes
    # A baseline model's cost does not follow from its config.
    macs = multiply_adds(bundle.config, len(bundle.tasks)) if bundle.config.model == "pepnet" else None
    weights = sum(array.size for array in bundle.dense().values())
    known = {peer.name: peer for peer in all_peers()}
    peers = [*(known[name] for name in options.peers), *map(own_peer, options.own)]
    precisions = [p for p in limits.BYTES if any(peer.precision == p for peer in peers)]
    say("measuring the machine")
    facts = machine.facts()
    before = limits.measure_limits(threads, weights, precisions, options.quick)
    rows = 4 * max(sizes) if options.quick else rows_beyond_caches(widths, max(sizes))
    say(f"computing float64 scores of {rows} rows")
    inputs = dense_rows(widths, rows, options.seed)
    truth = reference(bundle, inputs)
    dense = {
        size: compare(bundle, peers, inputs, truth, size, threads, plan, (*options.required, *options.own), say)
        for size in sizes
    }
    whole: dict[str, Figures] = {}
    hits: dict[int, Figures] = {}
    about_hits: dict[str, Any] = {}
    overhead: list[dict[str, Any]] = []
    if options.end_to_end and not options.quick:
        whole = {f"batch {size}": end_to_end(bundle, size, threads, plan, options.seed, say) for size in sizes}
        whole["one request"] = one_request(bundle, threads, plan, options.seed, say)
        about_hits, hits = hit_rates(bundle, sizes, threads, plan, options.seed, say)
    if not options.quick:
        overhead = call_overhead(bundle, threads, say)
        say("measuring the machine again")
        before = limits.better(before, limits.measure_limits(threads, weights, precisions, options.quick))
    facts["limits"] = before
    compared = [row for figures in dense.values() for row in figures.rows.values()]
    for row in compared:
        row |= _shares(row, macs, weights, facts["limits"])
        own = row["speedups"].get(options.baseline)
        row["speedup"] = {"ratio": 1.0, "low": 1.0, "high": 1.0} if row["name"] == options.baseline else own
    data = {
        "bundle": name,
        "schema_hash": bundle.schema.hash,
        "config": bundle.config.to_json(),
        "tasks": list(bundle.tasks),
        "multiply_adds_a_row": macs,
        "weights": weights,
        "threads": threads,
        "baseline": options.baseline,
        "plan": structs.asdict(plan),
        "seed": options.seed,
        "rotating_rows": rows,
        "rotating_bytes": rows * row_bytes(widths),
        "scores_std": float(truth.std()),
        "rows": compared,
        "ratios": named_ratios(compared),
        "missing": [
            {"name": peer, "batch": size, "reason": why}
            for size, figures in dense.items()
            for peer, why in figures.failed.items()
        ],
        "others_busy": {
            **{f"batch {size}": figures.others_busy for size, figures in dense.items()},
            **{f"end to end, {what}": figures.others_busy for what, figures in whole.items()},
            **{f"hit rates, batch {size}": figures.others_busy for size, figures in hits.items()},
        },
        "end_to_end": [row for figures in whole.values() for row in figures.rows.values()],
        "hit_rates": {**about_hits, "rows": [row for figures in hits.values() for row in figures.rows.values()]},
        "overhead_us": overhead,
    }
    return latency_page(data, facts)


def named_ratios(rows: Sequence[Row]) -> list[Row]:
    """Returns an entry per pair of `PAIRS` and batch size of which both have a figure.

    ratio, low, high, within_rounds: see `statistics.speedups`. The rest says what the ratio is worth: how steady ours
    was (p99 over p50), what share of the machine it reached, and the errors (root mean square) that both made.
    """
    by_peer = {(row["name"], row["batch"]): row for row in rows}
    entries = []
    for ours, against in PAIRS:
        for size in dict.fromkeys(row["batch"] for row in rows):
            row, other = by_peer.get((ours, size)), by_peer.get((against, size))
            if row is not None and other is not None:
                entry = {"name": ours, "against": against, "batch": size, **row["speedups"][against]}
                entry |= {key: row[key] for key in ("matrix_share", "read_share", "rms")}
                entries.append(entry | {"p99_over_p50": row["p99_ms"] / row["p50_ms"], "against_rms": other["rms"]})
    return entries


def _shares(row: Row, macs: int | None, weights: int, measured: dict[str, Any]) -> Row:
    """Returns the rates a row's p50 stands for, and what share of the measured limits they are; None if unknown."""
    seconds, precision = row["p50_ms"] / 1e3, row["precision"]
    gflops = None if macs is None else 2 * macs * row["batch"] / seconds / 1e9
    peak, read = measured["matrix"].get(precision), measured["weights_read_gbps"].get(precision)
    gbps = None if read is None else weights * limits.BYTES[precision] / seconds / 1e9
    return {
        "gflops": gflops,
        "matrix_share": None if peak is None or gflops is None else gflops / peak["gflops"],
        "weights_gbps": gbps,
        "read_share": None if gbps is None or read is None else gbps / read,
    }
