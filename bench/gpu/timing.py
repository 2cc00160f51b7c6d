"""Timing on a GPU, by the harness of all benchmarks with clocks of its own, and what is made of the figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pepnet_infer.bench.gpu.peers import FROM_HOST, Call, Case, IdsCall, Peer
from pepnet_infer.bench.harness.interleave import Clock, Plan
from pepnet_infer.bench.harness.measure import Row, Say, measure, reason
from pepnet_infer.bench.harness.report import Table
from pepnet_infer.bundle.accuracy import Difference

REPEATS = 20  # calls between two events
SETS = 4  # of inputs, in turn
#: What scores may be off by, root mean square and at most. Of torch in bf16, which rounds more, twice as much.
RMS, MOST = {"fp32": 1e-6, "bf16": 2e-3}, {"fp32": 5e-6, "bf16": 1e-2}

_COLUMNS = {
    "peer": "{name}",
    "rows": "{batch:d}",
    "on the device µs": "{device[p50_ms]:us}",
    "p99 µs": "{device[p99_ms]:us}",
    "to scores µs": "{p50_ms:us}",
    "p99": "{p99_ms:us}",
    "max error": "{max_abs:.1e}",
    "rms error": "{rms:.1e}",
    "runs": "{runs:d}",
}


def on_device(torch: Any, call: Callable[[], Any], repeats: int = REPEATS) -> tuple[float, Any]:
    """Returns seconds of a call on the device, behind a wait there that is long enough to put in all of them."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started = time.perf_counter()
    output = call()
    put_in = time.perf_counter() - started
    torch.cuda._sleep(int(2e9 * (1.5 * put_in * repeats + 1e-4)))  # cycles of at most 2 GHz
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / repeats, output


def clocks(torch: Any) -> tuple[Clock, Clock]:
    """Returns the device's own events, and the clock from a call to its scores on a device that is idle before."""

    def device(call: Callable[[int], Any], item: int) -> tuple[float, Any]:
        seconds, output = on_device(torch, lambda: call(item))
        return 1e9 * seconds, output

    def to_scores(call: Callable[[int], Any], item: int) -> tuple[float, Any]:
        torch.cuda.current_stream().synchronize()
        begin = time.perf_counter_ns()
        output = call(item)
        torch.cuda.current_stream().synchronize()
        return time.perf_counter_ns() - begin, output

    return device, to_scores


def compare(
    torch: Any,
    clocks: tuple[Clock, Clock],
    peers: Mapping[str, Peer],
    cases: Sequence[Case],
    truth: Sequence[np.ndarray],
    seconds: float,
    say: Say,
    note: Callable[[str, str], None],
) -> list[Row]:
    """Times all peers whose scores are right in turn for `seconds`, half by each clock, a few rounds at least.

    truth: float64 scores of each case. Returns a row of each that no clock failed, from call to scores, with its
    errors, and in `device` the figures there of those that begin and end there. Others are noted: another's peer that
    does not run as "left out"; as "failed" ours, scores that are off, and in a timed call of ids other bits than with
    inputs from the host.
    """
    rows = len(cases[0].inputs[0])
    calls: dict[str, list[Call]] = {}
    about: dict[str, Row] = {}
    exact: dict[str, list[np.ndarray]] = {}  # scores of each case with inputs from the host, by precision
    for name, peer in peers.items():
        say(f"{name} at {rows} rows")
        try:
            made = [peer(case) for case in cases]
            scores = [[torch.as_tensor(call()).float().cpu().numpy() for call in made] for _ in range(2)][-1]
        except Exception as error:  # a peer that does not run is said, and the others go on
            kind = "failed" if name.startswith("cuda") else "left out"
            note(kind, f"{name} at {rows} rows: {reason(error)}")
            continue
        try:
            about[name] = {"batch": rows, **accuracy(name, np.concatenate(scores), np.concatenate(truth))}
        except ValueError as error:
            note("failed", f"{name} at {rows} rows: {error}")
            continue
        calls[name] = made
        if name.endswith("-host"):
            exact[about[name]["precision"]] = scores

    def call_of(name: str) -> Callable[[int], Any]:
        return lambda item: calls[name][item]()

    def lose(name: str, item: int) -> int:
        call = calls[name][item]
        if isinstance(call, IdsCall):
            call.lose()
        return item

    def check(name: str, item: int, scores: Any) -> None:
        expected = exact.get(about[name]["precision"]) if name.endswith("-ids") else None
        if expected is not None and not np.array_equal(scores, expected[item]):
            raise ValueError("other scores than with inputs from the host")

    plan = Plan(5, seconds / 2, warm_calls=1, warm_s=0.0, settle_s=0.0)
    these = {name: call_of(name) for name in calls}
    there = {name: call for name, call in these.items() if not name.endswith(FROM_HOST)}
    if not there:
        return []
    items, quiet = range(len(cases)), lambda _: None
    device = measure("on the device", there, items, plan, quiet, clock=clocks[0], must=False)
    for name, row in device.rows.items():
        about[name]["device"] = row
    figures = measure(
        "to scores", these, items, plan, quiet, about=about, prepare=lose, check=check, clock=clocks[1], must=False
    )
    failed = device.failed | figures.failed
    for name, why in failed.items():
        note("failed", f"{name} at {rows} rows: {why}")
    return [row for name, row in figures.rows.items() if name not in failed]


def accuracy(name: str, scores: np.ndarray, truth: np.ndarray) -> Row:
    """Returns a peer's precision and how far its scores are from float64. Raises ValueError where that is too far."""
    precision, slack = "bf16" if "bf16" in name else "fp32", 1 if name.startswith("cuda") else 2
    off = Difference.of(scores, truth)
    if off.rms <= slack * RMS[precision] and off.max_abs <= slack * MOST[precision]:
        return {"precision": precision, "rms": off.rms, "max_abs": off.max_abs}
    raise ValueError(f"scores off by rms {off.rms:.1e}, max {off.max_abs:.1e}")


def limits(torch: Any) -> dict[str, float]:
    """Returns copy bandwidth and bf16 rate of this card, as far as plain torch reaches them."""
    one = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(one)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    copy = min(on_device(torch, lambda: other.copy_(one), 5)[0] for _ in range(5))
    product = min(on_device(torch, lambda: a @ a, 5)[0] for _ in range(5))
    return {"copy_gb_per_s": 2 * one.numel() / copy / 1e9, "bf16_tflops": 2 * 8192**3 / product / 1e12}


def table(found: dict[str, Any]) -> Table:
    """Returns the figures of the dense part."""
    title = (
        f"{found['gpu']}, torch {found['torch']}: dense part of preset kuaishou, inputs on the device, weights warm in "
        "its cache; -ids and -host begin and end on the host"
    )
    return Table(title, found["timings"], _COLUMNS, f"Errors: of scores from float64. {found['noise']}.")


def ratios(found: dict[str, Any]) -> Iterator[str]:
    """Yields what the table is read for: bf16 against the peers, and against what this card cannot be faster than."""
    rows = {(row["name"], row["batch"]): row for row in found.get("timings", ())}
    for batch in [batch for name, batch in rows if name == "cuda-bf16"]:
        mine = 1e3 * rows["cuda-bf16", batch]["device"]["p50_ms"]
        said = [
            f"{1e3 * rows[other, batch]['device']['p50_ms'] / mine:.2f} x as fast as {other}"
            for other in ("onnxruntime-fp32", "torch-compile-bf16")
            if (other, batch) in rows
        ]
        products, limit = found["kernels"]["bf16"]["products"], found["limits"]
        flops = batch * sum(p["flops_a_row"] for p in products) / limit["bf16_tflops"] / 1e6
        weights = sum(p["weight_bytes"] for p in products) / limit["copy_gb_per_s"] / 1e3
        said.append(f"{mine / max(flops, weights):.1f} x its bound of {max(flops, weights):.1f} us")
        if ("cuda-bf16-ids", batch) in rows:
            said.append(f"ids -> scores {1e3 * rows['cuda-bf16-ids', batch]['p50_ms'] / mine:.2f} x that")
        yield f"cuda-bf16, {batch} rows: {mine:.1f} us, " + ", ".join(said)
