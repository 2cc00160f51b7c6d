"""The CUDA kernels as they are, run on the CPU thread by thread: right where no GPU is to say so."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cuda_checks as checks
import numpy as np
import pytest

from pepnet_infer import Engine
from pepnet_infer.backends.cuda_library import VARIABLE, CudaLibrary, open_library
from pepnet_infer.errors import BackendError

Reference = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def built(core: Path, build_target: Callable[[Path, str], None]) -> Path:
    build_target(core, "pepnet_cuda_emulated")
    return core / "tests" / "cpp" / "libpepnet_cuda_emulated.so"


@pytest.fixture(scope="module")
def library(built: Path) -> CudaLibrary:
    return open_library(built)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_64_combinations_of_flags(library: CudaLibrary, precision: str, reference_scores: Reference) -> None:
    checks.all_flags(library, precision, reference_scores, 17)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_widths_of_several_tiles(library: CudaLibrary, precision: str, reference_scores: Reference) -> None:
    checks.several_tiles(library, precision, reference_scores)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_is_alone(library: CudaLibrary, precision: str) -> None:
    checks.rows_are_alone(library, precision, (0, 1, 8, 9, 65))


def test_logits_far_apart(library: CudaLibrary, reference_scores: Reference) -> None:
    checks.logits_far_apart(library, reference_scores)


def test_not_finite(library: CudaLibrary, reference_scores: Reference) -> None:
    checks.what_is_not_finite_stays_in_its_row(library, reference_scores)


def test_nothing_is_left_of_earlier_calls(library: CudaLibrary) -> None:
    checks.nothing_is_left_of_earlier_calls(library)


def test_more_rows_than_the_largest_bucket(library: CudaLibrary) -> None:
    config = checks.config_of(layers=(3,), towers=(), experts=1)
    model, inputs = checks.model_of(library, config, "fp32"), checks.inputs_of(config, 2050)
    whole = model.run(*inputs)
    np.testing.assert_array_equal(whole[2040:], model.run(*(x[2040:] for x in inputs)))


def test_threads_that_call_at_once(library: CudaLibrary) -> None:
    config = checks.config_of()
    model, inputs = checks.model_of(library, config, "fp32"), checks.inputs_of(config, 20)
    expected = model.run(*inputs)
    wrong: list[int] = []

    def score(rows: int) -> None:
        for _ in range(5):
            if not np.array_equal(model.run(*(x[:rows] for x in inputs)), expected[:rows]):
                wrong.append(rows)

    threads = [threading.Thread(target=score, args=(rows,)) for rows in (1, 7, 8, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_weights_that_do_not_fit_are_named(library: CudaLibrary) -> None:
    config = checks.config_of()
    tensors = checks.tensors_of(config)
    tensors["mix.w"] = tensors["mix.w"][:, 1:]
    with pytest.raises(ValueError, match=r"mix\.w: expected shape \[19, 12\], got \[19, 11\]"):
        library.model(config, 3, tensors, False, 0, True)


def test_the_script_for_a_gpu_machine_runs_its_checks(built: Path) -> None:
    script = Path(__file__).parents[2] / "bench" / "gpu_check.py"
    ran = subprocess.run(
        [sys.executable, str(script), "--few", "--library", str(built)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "right: a few, for a sanitizer" in ran.stdout


@pytest.fixture
def emulated(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(built))


@pytest.mark.usefixtures("emulated")
def test_an_engine_scores_with_it(toy_bundle: Path, toy_batch: Callable[..., dict[str, Any]]) -> None:
    batch = toy_batch(13)
    with Engine.load(toy_bundle, backend="native", threads=1) as native, Engine.load(toy_bundle, "cuda") as cuda:
        np.testing.assert_allclose(cuda.score(batch).values, native.score(batch).values, atol=5e-6)
        said = cuda.stats()["backend"]
        assert (said["backend"], said["provider"], said["precision"]) == ("cuda", "cuda", "fp32")
        assert said["tf32"] is False
        assert said["device"]["name"] == "emulated"
        assert said["packed_bytes"] > 0
    with Engine.load(toy_bundle, "cuda", "bf16", options={"graphs": False}) as rounded:
        np.testing.assert_allclose(rounded.score(batch).values, native_scores(toy_bundle, batch), atol=1e-2)


def native_scores(bundle: Path, batch: dict[str, Any]) -> np.ndarray:
    with Engine.load(bundle, backend="native", threads=1) as engine:
        return engine.score(batch).values


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"precision": "int8"}, "precision: cuda has fp32, bf16, got 'int8'"),
        ({"provider": "cpu"}, "provider: cuda has cuda, got 'cpu'"),
        ({"options": {"spin": True}}, "options: cuda has device, graphs, got 'spin'"),
        ({"options": {"graphs": 1}}, "options.graphs: expected true or false, got 1"),
        ({"options": {"device": 4}}, "options.device: expected 0 to 0, got 4"),
    ],
)
def test_what_is_not_there_is_refused(toy_bundle: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        Engine.load(toy_bundle, backend="cuda", **asked)


def test_a_library_that_is_none_is_refused(toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "libpepnet_cuda.so"
    path.write_bytes(b"no library")
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(BackendError, match=r"libpepnet_cuda\.so cannot be loaded"):
        Engine.load(toy_bundle, backend="cuda")
