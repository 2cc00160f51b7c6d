"""Rows of a dense array in Python: what there is without a cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pepnet_infer import _kernels
from pepnet_infer.bench.cache_peers.contender import Batch, Contender, Destination, Floats, Workload


def index_contender(workload: Workload) -> Contender:
    """`table[positions]`, as it is written most often: a new array."""
    table = workload.table

    def call(batch: Batch) -> Sequence[Floats]:
        return (table[batch.positions],)

    return Contender("numpy-index", "NumPy table[positions], a new array", call)


def take_contender(workload: Workload, destination: Destination) -> Contender:
    """`np.take` to an array that is there. Mode "clip" is its fastest: "raise" copies by way of a buffer."""
    table = workload.table
    (out,) = outs = [part.out for part in destination]

    def call(batch: Batch) -> Sequence[Floats]:
        np.take(table, batch.positions, axis=0, out=out, mode="clip")
        return outs

    return Contender("numpy-take", 'np.take(table, positions, 0, out, mode="clip")', call)


def gather_contender(workload: Workload, destination: Destination) -> Contender:
    """The gather the engine reads its mapped tables with."""
    table, default = workload.table, np.zeros(workload.table.shape[1], np.float32)
    outs = [part.out for part in destination]

    def call(batch: Batch) -> Sequence[Floats]:
        for part in destination:
            _kernels.gather(table, batch.positions[part.begin : part.end], default, part.out)
        return outs

    return Contender("kernels-gather", "the engine's gather from a mapped table", call)
