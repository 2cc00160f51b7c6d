"""How gpu_check.py times: all peers in turn, on the device and from a call to its scores, and what is made of that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

REPEATS = 20  # calls between two events
SETS = 4  # of inputs, in turn


def limits(torch: Any) -> dict[str, float]:
    """Returns copy bandwidth and bf16 rate of this card, as far as plain torch reaches them."""
    one = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(one)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    copy = min(on_device(torch, lambda: other.copy_(one), 5) for _ in range(5))
    product = min(on_device(torch, lambda: a @ a, 5) for _ in range(5))
    return {"copy_gb_per_s": 2 * one.numel() / copy / 1e9, "bf16_tflops": 2 * 8192**3 / product / 1e12}


def on_device(torch: Any, call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Returns seconds of a call on the device: behind a wait there that is long enough to put in all of them."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started = time.perf_counter()
    call()
    put_in = time.perf_counter() - started
    torch.cuda._sleep(int(2e9 * (1.5 * put_in * repeats + 1e-4)))  # cycles of at most 2 GHz
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / repeats


def until_there(torch: Any, call: Callable[[], object]) -> float:
    """Returns seconds from a call to its scores, on a device that is idle before."""
    torch.cuda.current_stream().synchronize()
    begin = time.perf_counter()
    call()
    torch.cuda.current_stream().synchronize()
    return time.perf_counter() - begin


def interleaved(torch: Any, calls: dict[str, list[Callable[[], object]]], ends: float) -> dict[str, dict[str, float]]:
    """Times all calls in turn until `ends` (of time.monotonic), a few rounds at least. Returns microseconds by name."""
    device: dict[str, list[float]] = {name: [] for name in calls}
    whole: dict[str, list[float]] = {name: [] for name in calls}
    number = 0
    while time.monotonic() < ends or number < 5:
        for name, of_sets in calls.items():
            call = of_sets[number % SETS]
            device[name].append(1e6 * on_device(torch, call))
            whole[name] += [1e6 * until_there(torch, call) for _ in range(3)]
        number += 1
    return {
        name: {
            "p50_us": float(np.percentile(device[name], 50)),
            "p99_us": float(np.percentile(device[name], 99)),
            "call_p50_us": float(np.percentile(whole[name], 50)),
            "call_p99_us": float(np.percentile(whole[name], 99)),
            "rounds": number,
        }
        for name in calls
    }


def kernels(facts: dict[str, Any]) -> str:
    """Returns the tile of each launch of products, and what it took where it was measured, launch to launch."""
    names: dict[int, str] = {}
    for product in facts["products"]:
        names[product["launch"]] = " + ".join(filter(None, (names.get(product["launch"]), product["name"])))
    lines = ["launches of products in bf16 by rows: tile, us"]
    for rows, launches in facts["tiles"].items():
        took = (f"{names[i]}: {one['tile']} {one['microseconds'][one['tile']]:.1f}" for i, one in enumerate(launches))
        lines.append(f"  {rows:>5}: " + ", ".join(took))
    return "\n".join(lines)


def table(found: dict[str, Any]) -> str:
    """Returns the figures as text."""
    timings = found.get("timings")
    if not timings:
        return "no timings"
    names = list(dict.fromkeys(name for batch in timings.values() for name in batch))
    lines = [
        f"{found['gpu']}, torch {found['torch']}: dense part of preset kuaishou, inputs on the device, weights warm "
        "in its cache, us a call, p50 on the device / p50 from call to scores (p99)"
    ]
    lines.append(" ".join([f"{'':22}", *(f"{rows:>24}" for rows in timings)]))
    for name in names:
        cells = [
            f"{b[name]['p50_us']:.1f} / {b[name]['call_p50_us']:.1f} ({b[name]['call_p99_us']:.1f})"
            if name in b
            else "-"
            for b in timings.values()
        ]
        lines.append(" ".join([f"{name:22}", *(f"{cell:>24}" for cell in cells)]))
    return "\n".join(lines)


def ratios(found: dict[str, Any]) -> Iterator[str]:
    """Yields what the table is read for: bf16 against the peers, and against what this card cannot be faster than."""
    timings = {rows: {n: t["p50_us"] for n, t in batch.items()} for rows, batch in found.get("timings", {}).items()}
    for rows, took in timings.items():
        mine = took.get("cuda-bf16")
        if mine is None:
            continue
        said = [
            f"{took[n] / mine:.2f} x as fast as {n}" for n in ("onnxruntime-fp32", "torch-compile-bf16") if n in took
        ]
        products, limit = found["kernels"]["bf16"]["products"], found["limits"]
        flops = int(rows) * sum(p["flops_a_row"] for p in products) / limit["bf16_tflops"] / 1e6
        weights = sum(p["weight_bytes"] for p in products) / limit["copy_gb_per_s"] / 1e3
        said.append(f"{mine / max(flops, weights):.1f} x its bound of {max(flops, weights):.1f} us")
        ids = found.get("ids", {}).get(rows, {}).get("bf16, rows on GPU")
        if ids is not None:
            said.append(f"ids -> scores {ids['p50_us'] / mine:.2f} x that")
        yield f"cuda-bf16, {rows} rows: {mine:.1f} us, " + ", ".join(said)
