"""The cuda kernels on a GPU against the formulas in float64; on the CPU: tests/kernels/cpp/test_cuda_emulated.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cuda_checks as checks
import cuda_rows_checks
import numpy as np
import pytest
import torch

from pepnet_infer import Engine
from pepnet_infer._kernels import CudaLibrary
from pepnet_infer.backends.create import create_backend
from pepnet_infer.backends.cuda.backend import CudaBackend, library_path, open_library
from pepnet_infer.backends.cuda.driver import no_gpu_because

pytestmark = [
    pytest.mark.parity,
    pytest.mark.gpu,
    pytest.mark.skipif(no_gpu_because() is not None, reason="no GPU answers"),
]
Reference = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def library() -> CudaLibrary:
    path = library_path()
    assert path is not None, "built without nvcc"
    return open_library(path)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_64_combinations_of_flags(library: CudaLibrary, precision: str, reference_scores: Reference) -> None:
    checks.all_flags(library, precision, reference_scores, 33)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_widths_of_several_tiles(library: CudaLibrary, precision: str, reference_scores: Reference) -> None:
    checks.several_tiles(library, precision, reference_scores)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_is_alone(library: CudaLibrary, precision: str) -> None:
    checks.rows_are_alone(library, precision, (0, 1, 7, 8, 9, 33, 64, 100, 257, 1000, 2048, 4097))


def test_what_is_rare(library: CudaLibrary, reference_scores: Reference) -> None:
    checks.logits_far_apart(library, reference_scores)
    checks.what_is_not_finite_stays_in_its_row(library, reference_scores)
    checks.nothing_is_left_of_earlier_calls(library)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_on_the_device(library: CudaLibrary, precision: str) -> None:
    cuda_rows_checks.rows_on_device(library, precision, (0, 1, 8, 33, 500, 2048))


def test_an_engine_scores_ids_with_rows_on_the_device(toy_bundle: Path, toy_batch: Callable[..., Any]) -> None:
    with (
        Engine.load(toy_bundle, backend="native", device="cuda") as host,
        Engine.load(toy_bundle, backend="native", device="cuda", options={"rows": "1MiB"}) as device,
    ):
        for seed in (0, 1, 0, 1):
            one, other = device.score(toy_batch(300, seed)), host.score(toy_batch(300, seed))
            np.testing.assert_array_equal(one.values, other.values)
            assert one.unknown == other.unknown


def test_an_engine_scores_with_it(toy_bundle: Path, toy_batch: Callable[..., dict[str, Any]]) -> None:
    batch = toy_batch(300)
    with (
        Engine.load(toy_bundle, backend="native", threads=1) as native,
        Engine.load(toy_bundle, backend="native", device="cuda") as cuda,
    ):
        np.testing.assert_allclose(cuda.score(batch).values, native.score(batch).values, atol=5e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_arrays_of_torch_stay_where_they_are(precision: str) -> None:
    bundle = checks.Bundle()
    backend = create_backend(bundle, "native", precision, device="cuda")  # type: ignore[arg-type]
    assert isinstance(backend, CudaBackend)
    for stream in (torch.cuda.default_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            checks.arrays_stay_where_they_are(
                backend,
                bundle.config,
                lambda x: torch.from_numpy(x).cuda(),
                (0, 1, 9, 300, 2500),
                stream.cuda_stream,
            )
