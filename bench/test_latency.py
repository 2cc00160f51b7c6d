"""pytest-benchmark cases of the dense part and of whole requests: `make bench`, or `pytest bench --preset NAME`.

They run one after another and compare a peer with itself over time (`--benchmark-autosave`, `--benchmark-compare`). For
ratios between peers use `pepnet-infer bench latency`, which interleaves them. Nothing here passes or fails by time.
"""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pepnet_infer.backends.ort_library import no_telemetry
from pepnet_infer.bench.harness.interleave import settle
from pepnet_infer.bench.harness.statistics import errors
from pepnet_infer.bench.harness.workloads import Traffic, as_request, batches, dense_rows
from pepnet_infer.bench.latency.peers import PeerSpec, all_peers, reference
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.engine import Engine
from pepnet_infer.errors import BackendError
from pepnet_infer.process.cpu import available_threads

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

no_telemetry()
ROWS = (1, 64, 1024)
#: Largest difference of a score from float64 by precision: what counts as having done the work.
BOUNDS = {"fp32": 1e-4, "bf16": 0.1, "int8": 0.1}


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of the preset that was asked for."""
    from pepnet_infer.export.bundle.presets import make_preset
    from pepnet_infer.export.bundle.write_bundle import write_bundle

    folder: Path = tmp_path_factory.mktemp("preset")
    return write_bundle(make_preset(request.config.getoption("--preset")), folder / "bundle")


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("spec", all_peers(), ids=lambda spec: spec.name)
def test_dense(benchmark: BenchmarkFixture, spec: PeerSpec, rows: int, bundle: Bundle) -> None:
    """One peer on fresh batches of standard normal inputs."""
    try:
        peer = spec.build(bundle, rows, available_threads())
    except (ImportError, BackendError) as error:
        pytest.skip(f"{spec.name} is not here: {error}")
    parts = batches(dense_rows(bundle.config.inputs, 8 * rows, 0), rows)
    accuracy = errors(peer.scores(parts[0]), reference(bundle, parts[0]))
    assert accuracy["max_abs"] < BOUNDS[spec.precision]
    benchmark.group = f"dense, {rows} rows"
    benchmark.extra_info |= accuracy | {"precision": spec.precision, "threads": available_threads()}
    settle(0.5)
    turns = cycle(parts)
    pedantic: Any = benchmark.pedantic
    pedantic(peer.scores, setup=lambda: ((next(turns),), {}), rounds=30, warmup_rounds=2)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("call", ["score", "rank"])
def test_request(benchmark: BenchmarkFixture, call: str, rows: int, bundle: Bundle) -> None:
    """Ids in, scores out."""
    traffic = Traffic(bundle)
    columns = [traffic.columns(rows) for _ in range(16)]
    with Engine.load(bundle.path) as engine:
        if call == "score":
            turns: Any = cycle([(engine.score, (batch,)) for batch in columns])
        else:
            asked = [as_request(bundle, batch) for batch in columns]
            turns = cycle([(engine.rank, (one.user, one.items, one.domain, one.context)) for one in asked])
        benchmark.group = f"{call}, {rows} rows"
        pedantic: Any = benchmark.pedantic
        scores = pedantic(
            lambda function, given: function(*given), setup=lambda: (next(turns), {}), rounds=30, warmup_rounds=2
        )
    assert np.asarray(scores).shape == (rows, len(bundle.tasks))
