"""What the machine can do at most, measured: matrix products by precision, and reads of the weights and of memory.

The share of these limits that a peer reaches says more than its time: a small batch is bound by reading the weights,
a large one by the products. The limits are the best rates that anything here reached, torch's libraries and our own
kernels, on plain products with constant weights and on plain reads, so that they are no better than what can be had,
and no peer should pass them by more than noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.bench.harness.interleave import settle
from pepnet_infer.bench.harness.machine import last_level_cache

#: Bytes of one weight by precision, the widest first.
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
#: Rows, inner and outer width of the products tried; small ones stay in L2, large ones show blocking.
SHAPES = ((64, 1264, 1216), (256, 1024, 1024), (512, 512, 512), (1024, 1024, 1024), (1024, 1216, 4096))
SECONDS_A_TRY = 0.25
_READ_BYTES_A_TRY = 256 << 20
_MOST_BYTES = 2 << 30  # that are read from memory

Limits = dict[str, dict[str, Any]]
Matrix = npt.NDArray[np.float32]
#: Returns x·w in whatever type the library has for it; our kernels return it in parts, by columns.
Multiply = Callable[[], object]


def measure_limits(threads: int, weights: int, precisions: Sequence[str], quick: bool) -> Limits:
    """Returns the machine's limits as they are now, with the rate of reading `weights` numbers in each precision.

    matrix: by precision, 10^9 operations a second (two a multiply-add), and what reached them; read_gbps: 10^9 bytes a
    second. The read of memory, eight times the last-level cache, is left out where it must be quick.
    """
    shapes = SHAPES[:1] if quick else SHAPES
    found: Limits = {
        "matrix": {precision: matrix_peak(precision, threads, shapes) for precision in precisions},
        "read_gbps": {f"{precision} weights": weights_gbps(precision, weights, threads) for precision in precisions},
    }
    if not quick:
        found["read_gbps"]["memory"] = read_gbps(min(8 * last_level_cache(), _MOST_BYTES), threads)
    return found


def better(one: Limits, other: Limits) -> Limits:
    """Returns the higher of each limit: a limit is what is possible, and others may have been busy at either time."""
    return {kind: {of: max(limit, other[kind][of]) for of, limit in limits.items()} for kind, limits in one.items()}


def matrix_peak(precision: str, threads: int, shapes: Sequence[tuple[int, int, int]]) -> tuple[float, str]:
    """Returns the best product rate over all libraries and `shapes`, and whose it is."""
    rates = []
    for rows, inner, outer in shapes:
        x, w = operands(rows, inner, outer)
        for who, multiply in products(precision, x, w, threads):
            settle(0.5)  # until the pool of the one before has gone to sleep
            gflops = 2 * rows * inner * outer / _fastest(multiply) / 1e9
            rates.append((gflops, f"{who} {rows}x{inner}x{outer}"))
    return max(rates)


def weights_gbps(precision: str, weights: int, threads: int) -> float:
    """Returns the best rate of reading so many weights again and again, from the caches as far as they fit.

    By a plain read of their bytes, and by our own product of one row with as many: what a batch of one row does.
    """
    plain, inner = read_gbps(weights * BYTES[precision], threads), 1024
    x, w = operands(1, inner, max(16 * threads, weights // inner))
    settle(0.5)
    seconds = _fastest(native(widest_isa(precision), precision, x, w, threads))
    return max(plain, w.size * BYTES[precision] / seconds / 1e9)


def read_gbps(working_set: int, threads: int) -> float:
    """Returns the rate at which threads read so many bytes again and again, each its own share, in 10^9 bytes/s."""
    parts = np.array_split(np.ones(max(threads, working_set // 8), np.int64), threads)
    size = sum(part.nbytes for part in parts)
    repeats = max(1, _READ_BYTES_A_TRY // size)

    def read(part: npt.NDArray[np.int64]) -> None:
        for _ in range(repeats):
            np.bitwise_or.reduce(part)  # the reduction NumPy does with the fewest operations a byte

    with ThreadPoolExecutor(threads) as pool:
        return size * repeats / _fastest(lambda: list(pool.map(read, parts))) / 1e9


def operands(rows: int, inner: int, outer: int) -> tuple[Matrix, Matrix]:
    """Returns float32 x [rows, inner] and w [inner, outer]: whole numbers of -127 to 127, exact in every precision."""
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-127, 128, shape).astype(np.float32) for shape in ((rows, inner), (inner, outer)))
    return x, w


def products(precision: str, x: Matrix, w: Matrix, threads: int) -> Iterator[tuple[str, Multiply]]:
    """Yields who multiplies and how. `x` and `w` are of `operands`.

    torch is given its activations converted, our kernels take float32. torch's products are those of the libraries
    that others use too, oneDNN and MKL.
    """
    yield "torch", _torch(precision, x, w, threads)
    isa = widest_isa(precision)
    yield f"native {isa}", native(isa, precision, x, w, threads)


def widest_isa(precision: str) -> str:
    """Returns the widest instruction set that runs here, whatever PEPNET_ISA says: a limit is the machine's."""
    return [isa["isa"] for isa in _kernels.isas() if isa["usable"] and isa["precision"] == precision][-1]


def native(isa: str, precision: str, x: Matrix, w: Matrix, threads: int) -> Multiply:
    """Returns our kernels' product, its columns shared by `threads` threads."""
    ops = _kernels.ops(isa, precision)
    parts = [_kernels.pack(np.ascontiguousarray(part), None, precision) for part in np.array_split(w, threads, axis=1)]
    spread = map if threads == 1 else ThreadPoolExecutor(threads).map
    return lambda: list(spread(lambda part: ops.product(x, part), parts))


def _torch(precision: str, x: Matrix, w: Matrix, threads: int) -> Multiply:
    import torch

    torch.set_num_threads(threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[precision]
    a, b = torch.from_numpy(x).to(dtype), torch.from_numpy(w).to(dtype)
    out = torch.empty((x.shape[0], w.shape[1]), dtype=torch.int32 if precision == "int8" else dtype)
    if precision == "int8":
        return lambda: torch._int_mm(a, b, out=out)
    return lambda: torch.mm(a, b, out=out)


def _fastest(call: Callable[[], object]) -> float:
    """Returns the shortest of at least three calls, going on for SECONDS_A_TRY: a limit is what is possible."""
    call()
    best, deadline, count = float("inf"), time.perf_counter() + SECONDS_A_TRY, 0
    while count < 3 or time.perf_counter() < deadline:
        start = time.perf_counter()
        call()
        best, count = min(best, time.perf_counter() - start), count + 1
    return best
