"""What the pytest-benchmark suites share. `pytest bench` runs them; nothing here passes or fails by time.

`--preset NAME` or PEPNET_BENCH_PRESET picks the model (default seed); `--bench-batch` the batch sizes.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pepnet_infer.backends.ort_library import no_telemetry
from pepnet_infer.bench.workloads import dense_rows
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.process.cpu import available_threads
from pepnet_infer.schema.inputs import Inputs

no_telemetry()

Truth = npt.NDArray[np.float64]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of the suites."""
    group = parser.getgroup("pepnet_infer")
    preset = os.environ.get("PEPNET_BENCH_PRESET", "seed")
    group.addoption("--preset", default=preset, help="preset the suites measure: seed, kuaishou, paper")
    group.addoption("--bench-batch", default="1,64,1024", help="batch sizes, with commas between")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One case per batch size."""
    if "batch_size" in metafunc.fixturenames:
        sizes = [int(size) for size in metafunc.config.getoption("--bench-batch").split(",")]
        metafunc.parametrize("batch_size", sizes)


@pytest.fixture(scope="session")
def threads() -> int:
    """Threads of every peer."""
    return available_threads()


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of the preset that was asked for."""
    pytest.importorskip("onnxsim", reason="making a preset's bundle needs the export extra")
    from pepnet_infer.export.bundle.presets import make_preset
    from pepnet_infer.export.bundle.write_bundle import write_bundle

    folder: Path = tmp_path_factory.mktemp("preset")
    return write_bundle(make_preset(request.config.getoption("--preset")), folder / "bundle")


@pytest.fixture(scope="session")
def inputs(bundle: Bundle) -> Inputs:
    """Rows to score, standard normal."""
    return dense_rows(bundle.config.inputs, 8192, 0)


@pytest.fixture(scope="session")
def truth(bundle: Bundle, inputs: Inputs) -> Truth:
    """Their scores in float64."""
    from pepnet_infer.bench.peers.torch_cpu import reference

    return reference(bundle, inputs)
