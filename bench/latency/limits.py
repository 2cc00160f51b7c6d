"""What the machine can do at most, measured: matrix products by precision, and reads by size of what is read.

The share of these limits that a peer reaches says more than its time: a small batch is bound by reading the weights,
a large one by the products. The limits are the best rates that anything here reached, libraries and our own kernels,
on plain products with constant weights and on plain reads, so that they are no better than what can be had, and no peer
should pass them by more than noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pepnet_infer.bench.harness.interleave import settle
from pepnet_infer.bench.harness.machine import last_level_cache
from pepnet_infer.bench.latency.products import PRECISIONS, native, operands, products, widest_isa

#: Rows, inner and outer width of the products tried; small ones stay in L2, large ones show blocking.
SHAPES = ((64, 1264, 1216), (256, 1024, 1024), (512, 512, 512), (1024, 1024, 1024), (1024, 1216, 4096))
_READ_BYTES_A_TRY = 256 << 20
_READ_INNER = 1024  # inner width of the product of one row that reads weights
SECONDS_A_TRY = 0.25
#: Bytes of one weight.
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Peak:
    """The best product rate of one precision, in 10^9 operations a second (two a multiply-add), and what reached it."""

    gflops: float
    by: str


def matrix_peaks(
    threads: int, precisions: Sequence[str] = PRECISIONS, shapes: Sequence[tuple[int, int, int]] = SHAPES
) -> dict[str, Peak]:
    """Returns the best rate per precision over all installed libraries, our own kernels, and `shapes`."""
    best: dict[str, Peak] = {}
    for precision in precisions:
        for rows, inner, outer in shapes:
            x, w = operands(precision, rows, inner, outer)
            for who, multiply in products(precision, x, w, threads):
                settle(0.5)  # until the pool of the one before has gone to sleep
                gflops = 2 * rows * inner * outer / _fastest(multiply) / 1e9
                if precision not in best or gflops > best[precision].gflops:
                    best[precision] = Peak(gflops, f"{who} {rows}x{inner}x{outer}")
    return best


def weights_gbps(precision: str, weights: int, threads: int) -> float:
    """Returns the best rate of reading so many weights again and again, from the cache as far as they fit.

    By a plain read of their bytes, and by our own product of one row with as many: what a batch of one row does.
    """
    plain = read_gbps(weights * BYTES[precision], threads)
    x, w = operands(precision, 1, _READ_INNER, max(16 * threads, weights // _READ_INNER))
    settle(0.5)
    seconds = _fastest(native(widest_isa(precision), precision, x, w, threads))
    return max(plain, w.size * BYTES[precision] / seconds / 1e9)


def read_gbps(working_set: int, threads: int) -> float:
    """Returns the rate at which `threads` threads together read `working_set` bytes over and over, in 10^9 bytes/s.

    Each thread reads its own share, as the threads of a matrix product read their own columns of the weights.
    """
    words = max(threads, working_set // 8)
    parts = np.array_split(np.ones(words, dtype=np.int64), threads)
    repeats = max(1, _READ_BYTES_A_TRY // (8 * words))

    def read(part: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        for _ in range(repeats):
            np.bitwise_or.reduce(part)  # the reduction NumPy does with the fewest operations a byte

    with ThreadPoolExecutor(threads) as pool:
        seconds = _fastest(lambda: list(pool.map(read, parts)))
    return 8 * words * repeats / seconds / 1e9


def copy_gbps(working_set: int, threads: int) -> float:
    """Returns the rate at which `threads` threads copy, bytes read plus bytes written, in 10^9 bytes/s."""
    sources = np.array_split(np.ones(working_set // 16, dtype=np.int64), threads)
    targets = [np.empty_like(s) for s in sources]
    with ThreadPoolExecutor(threads) as pool:
        seconds = _fastest(lambda: list(pool.map(np.copyto, targets, sources)))
    return 2 * sum(s.nbytes for s in sources) / seconds / 1e9


def cache_and_memory(threads: int) -> dict[str, float]:
    """Returns read rates from the last-level cache (half of it) and from memory (eight times it), and the copy rate."""
    size = last_level_cache()
    beyond = min(8 * size, 2 << 30)
    return {
        "l3_read_gbps": read_gbps(size // 2, threads),
        "memory_read_gbps": read_gbps(beyond, threads),
        "memory_copy_gbps": copy_gbps(beyond, threads),
    }


def measure_limits(threads: int, weights: int, precisions: Sequence[str], quick: bool) -> dict[str, Any]:
    """Returns the machine's limits as they are now, with the rate of reading `weights` numbers in each precision."""
    peaks = matrix_peaks(threads, precisions, SHAPES[:1] if quick else SHAPES)
    reads = {p: weights_gbps(p, weights, threads) for p in precisions}
    matrix = {name: asdict(peak) for name, peak in peaks.items()}
    return {"matrix": matrix, **({} if quick else cache_and_memory(threads)), "weights_read_gbps": reads}


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


def _fastest(call: Callable[[], object]) -> float:
    """Returns the shortest of at least three calls, going on for SECONDS_A_TRY: a limit is what is possible."""
    call()
    best, deadline, count = float("inf"), time.perf_counter() + SECONDS_A_TRY, 0
    while count < 3 or time.perf_counter() < deadline:
        start = time.perf_counter()
        call()
        best, count = min(best, time.perf_counter() - start), count + 1
    return best
