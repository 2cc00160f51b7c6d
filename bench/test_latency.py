"""pytest-benchmark cases of the dense part and of whole requests: `make bench`, or `pytest bench --preset NAME`.

They run one after another and compare a peer with itself over time (`--benchmark-autosave`, `--benchmark-compare`). For
ratios between peers use `pepnet-infer bench latency`, which interleaves them. Nothing here passes or fails by time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import pytest

from pepnet_infer.backends.ort_library import no_telemetry
from pepnet_infer.bench.harness.interleave import settle
from pepnet_infer.bench.harness.workloads import Traffic, batches
from pepnet_infer.bench.latency.peers import PEERS, reference
from pepnet_infer.bundle.accuracy import Difference
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.engine import Engine
from pepnet_infer.errors import BackendError
from pepnet_infer.process.cpu import available_threads

no_telemetry()
ROWS = (1, 64, 1024)
#: Largest difference of a score from float64 by precision: what counts as having done the work.
BOUNDS = {"fp32": 1e-4, "bf16": 0.1, "int8": 0.1}


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of the preset that was asked for."""
    from pepnet_infer.export.bundle.presets import make_preset
    from pepnet_infer.export.bundle.write_bundle import write_bundle

    return write_bundle(make_preset(request.config.getoption("--preset")), tmp_path_factory.mktemp("preset") / "bundle")


def timed(benchmark: Any, group: str, call: Callable[[Any], Any], inputs: Sequence[Any]) -> Any:
    """Times a call on each input in turn. Returns what it returned last."""
    benchmark.group = group
    turns = cycle(inputs)
    settle(0.5)
    return benchmark.pedantic(call, setup=lambda: ((next(turns),), {}), rounds=30, warmup_rounds=2)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", PEERS)
def test_dense(benchmark: Any, name: str, rows: int, bundle: Bundle) -> None:
    """One peer on fresh batches of standard normal inputs."""
    try:
        peer = PEERS[name].build(bundle, rows, available_threads())
    except (ImportError, BackendError) as error:
        pytest.skip(f"{name} is not here: {error}")
    parts = batches(normal_inputs(bundle.config.inputs, 8 * rows, 0), rows)
    accuracy = Difference.of(peer.scores(parts[0]), reference(bundle, parts[0]))
    assert accuracy.max_abs < BOUNDS[PEERS[name].precision]
    benchmark.extra_info |= {**accuracy.to_json(), "threads": available_threads()}
    timed(benchmark, f"dense, {rows} rows", peer.scores, parts)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("call", ["score", "rank"])
def test_request(benchmark: Any, call: str, rows: int, bundle: Bundle) -> None:
    """Ids in, scores out."""
    traffic = Traffic(bundle)
    requests = [traffic.request(rows) for _ in range(16)]
    with Engine.load(bundle.path) as engine:
        calls = {
            "score": lambda one: engine.score(one.rows),
            "rank": lambda one: engine.rank(one.user, one.items, one.domain, one.context),
        }
        scores = timed(benchmark, f"{call}, {rows} rows", calls[call], requests)
    assert scores.values.shape == (rows, len(bundle.tasks))
