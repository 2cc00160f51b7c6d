"""The dense part, one benchmark per peer and batch size. For ratios between peers use `pepnet-infer bench latency`,
which interleaves them; these cases run one after another and serve to compare a peer with itself over time."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

import pytest

from pepnet_infer.bench.latency import settle
from pepnet_infer.bench.peers import PeerSpec, all_peers
from pepnet_infer.bench.summary import errors
from pepnet_infer.bench.workloads import batches

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt
    from pytest_benchmark.fixture import BenchmarkFixture

    from pepnet_infer.bundle.bundle import Bundle
    from pepnet_infer.schema.inputs import Inputs

#: Largest difference of a score from float64 by precision: what counts as having done the work.
BOUNDS = {"fp32": 1e-4, "bf16": 0.1, "int8": 0.1}


@pytest.mark.parametrize("spec", all_peers(), ids=lambda spec: spec.name)
def test_dense(
    benchmark: BenchmarkFixture,
    spec: PeerSpec,
    batch_size: int,
    bundle: Bundle,
    inputs: Inputs,
    truth: npt.NDArray[np.float64],
    threads: int,
) -> None:
    try:
        peer = spec.build(bundle, batch_size, threads)
    except ImportError as error:
        pytest.skip(f"{spec.name} is not installed: {error}")
    parts = batches(inputs, batch_size)
    accuracy = errors(peer.scores(parts[0]), truth[:batch_size])
    assert accuracy["max_abs"] < BOUNDS[spec.precision]
    benchmark.group = f"dense, batch {batch_size}"
    benchmark.extra_info |= {"max_abs": accuracy["max_abs"], "precision": spec.precision, "threads": threads}
    settle(0.5)
    turns = cycle(parts)
    pedantic: Callable[..., object] = benchmark.pedantic  # untyped
    pedantic(peer.scores, setup=lambda: ((next(turns),), {}), rounds=30, warmup_rounds=2)
