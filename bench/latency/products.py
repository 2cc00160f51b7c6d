"""Plain matrix products with constant weights, by torch and by our own kernels, in each precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels

#: Precisions of products, the widest first.
PRECISIONS = ("fp32", "bf16", "int8")
Matrix = npt.NDArray[np.float32]
#: Returns x·w, in whatever type the library has for it; our kernels on several threads return it in parts.
Multiply = Callable[[], object]


def operands(precision: str, rows: int, inner: int, outer: int) -> tuple[Matrix, Matrix]:
    """Returns float32 x [rows, inner] and w [inner, outer]: standard normal, for int8 whole numbers of -127 to 127."""
    rng = np.random.default_rng(0)
    if precision == "int8":
        whole = (rng.integers(-127, 128, shape) for shape in ((rows, inner), (inner, outer)))
        x, w = (values.astype(np.float32) for values in whole)
        return x, w
    return rng.standard_normal((rows, inner), dtype=np.float32), rng.standard_normal((inner, outer), dtype=np.float32)


def products(precision: str, x: Matrix, w: Matrix, threads: int) -> Iterator[tuple[str, Multiply]]:
    """Yields who multiplies and how. `x` and `w` are of `operands`.

    torch is given its activations converted, our kernels take float32. torch's products are those of the libraries
    that others use too, oneDNN and MKL.
    """
    if find_spec("torch"):
        yield "torch", _torch(precision, x, w, threads)
    isa = widest_isa(precision)
    yield f"native {isa}", native(isa, precision, x, w, threads)


def widest_isa(precision: str) -> str:
    """Returns the widest instruction set that runs here, whatever PEPNET_ISA says: a limit is the machine's."""
    return [isa["isa"] for isa in _kernels.isas() if isa["usable"] and isa["precision"] == precision][-1]


def native(isa: str, precision: str, x: Matrix, w: Matrix, threads: int) -> Multiply:
    """Returns our kernels' product on one table. Threads share the rows, or the columns of fewer rows than threads."""
    ops, packed = _kernels.ops(isa, precision), _kernels.pack(w, None, precision)
    if threads == 1:
        return lambda: ops.product(x, packed)
    pool = ThreadPoolExecutor(threads)
    if len(x) >= threads:
        parts = np.array_split(x, threads)
        return lambda: list(pool.map(lambda part: ops.product(part, packed), parts))
    cuts = list(pairwise(np.linspace(0, packed.panels, threads + 1).astype(int).tolist()))

    def columns(cut: tuple[int, int]) -> Matrix:
        return ops.product(x, packed, panel_begin=cut[0], panel_end=cut[1])

    return lambda: list(pool.map(columns, cuts))


def _torch(precision: str, x: Matrix, w: Matrix, threads: int) -> Multiply:
    import torch

    torch.set_num_threads(threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[precision]
    a, b = torch.from_numpy(x).to(dtype), torch.from_numpy(w).to(dtype)
    out = torch.empty((x.shape[0], w.shape[1]), dtype=torch.int32 if precision == "int8" else dtype)
    if precision == "int8":
        return lambda: torch._int_mm(a, b, out=out)
    return lambda: torch.mm(a, b, out=out)
