"""The CUDA kernels as they are, run on the CPU thread by thread: right where no GPU is to say so."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cuda_checks as checks
import cuda_rows_checks
import numpy as np
import pytest
import torch
from children import well_in_a_child

from pepnet_infer import Engine
from pepnet_infer._kernels import CudaLibrary
from pepnet_infer.backends.create import create_backend
from pepnet_infer.backends.cuda.backend import VARIABLE, CudaBackend
from pepnet_infer.backends.cuda.rows import DeviceRows
from pepnet_infer.bench.gpu import peers
from pepnet_infer.errors import BackendError, ConfigError, SchemaError
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.schema.network_config import InputWidths, ModelConfig

Reference = Callable[..., np.ndarray]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_64_combinations_of_flags(library: CudaLibrary, precision: str, reference_scores: Reference) -> None:
    checks.all_flags(library, precision, reference_scores, 17)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_widths_of_several_tiles(library: CudaLibrary, precision: str, reference_scores: Reference) -> None:
    checks.several_tiles(library, precision, reference_scores)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_is_alone(library: CudaLibrary, precision: str) -> None:
    checks.rows_are_alone(library, precision, (0, 1, 8, 9, 65))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tiles_have_the_same_bits(library: CudaLibrary, precision: str, reference_scores: Reference) -> None:
    checks.tiles_have_the_same_bits(library, precision, reference_scores, (1, 130))


def test_tiles_are_measured_once_for_each_kind_of_model(library: CudaLibrary, built: Path) -> None:
    timed = ctypes.CDLL(str(built)).pepnet_cuda_timed
    config = checks.config_of(("mmoe", "output", "group", True, True, True), layers=(200, 7))
    timed()
    facts = checks.model_of(library, config, "bf16").facts()
    tiles = {rows: [one["tile"] for one in launches] for rows, launches in facts["tiles"].items()}
    assert timed() > 0
    for one in (one for launches in facts["tiles"].values() for one in launches):
        assert one["microseconds"][one["tile"]] == min(one["microseconds"].values())
    assert list(tiles) == ["1", "8", "32", "64", "128", "256", "512", "1024", "2048"]
    launches = {product["launch"]: product["name"] for product in facts["products"]}
    gated = next(launch for launch, name in launches.items() if name == "experts.0")
    assert all("wide" not in of_rows[gated]["microseconds"] for of_rows in facts["tiles"].values())
    checks.model_of(library, config, "bf16")
    for rows, chosen in tiles.items():
        assert len(chosen) == len(launches)
        assert not {"many", "wide"} & set(chosen) if int(rows) <= 32 else "few" not in chosen or int(rows) <= 128
    assert len({tile for chosen in tiles.values() for tile in chosen}) == len(checks.TILES)  # this library draws them
    assert timed() == 0
    given = checks.model_of(library, config, "bf16", tile="wide").facts()["tiles"]
    assert timed() == 0
    assert {one["tile"] for one in given["8"]} == {"wide", "many"}  # gates in one pass have no room in the widest


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
    tensors["mix.w"] = np.ascontiguousarray(tensors["mix.w"][:, 1:])
    with pytest.raises(ValueError, match=r"mix\.w: expected shape \[19, 12\], got \[19, 11\]"):
        checks.model_of(library, config, "fp32", tensors=tensors)


def test_calls_of_a_warp_are_of_all_its_lanes(
    core: Path, build_target: Callable[[Path, str], None], call: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    build_target(core, "cuda_emulated_test")
    program = core / "tests" / "kernels" / "cpp" / "cuda_emulated_test"
    for what, answer in {"ballot": "aaaaaaaa 0 0", "shfl": "0 31 0", "xor": "0 0 7"}.items():
        done = call(program, what)
        assert (done.returncode, done.stdout.strip()) == (0, answer)
        done = call(program, f"{what}-of-some")
        assert done.returncode == -signal.SIGABRT
        assert "a call of a warp that not all lanes take part in" in done.stdout
    for what in ("shfl-of-lane-32", "xor-by-32"):
        done = call(program, what)
        assert done.returncode == -signal.SIGABRT
        assert "a lane that is in no warp" in done.stdout


def test_the_script_for_a_gpu_machine_runs_its_checks(built: Path) -> None:
    script = Path(__file__).parents[3] / "bench" / "gpu_check.py"
    ran = subprocess.run(
        [sys.executable, str(script), "--few", "--library", str(built)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "right: a few, for a sanitizer" in ran.stdout


def test_peers_that_begin_on_the_host_score_what_they_are_sent(
    library: CudaLibrary, monkeypatch: pytest.MonkeyPatch, reference_scores: Reference
) -> None:
    for name, value in {"WIDTH": 8, "IDS": 2, "PRIOR": 1, "ROWS": 256}.items():
        monkeypatch.setattr(peers, name, value)
    config = ModelConfig(InputWidths(19, 10, 8), layers=(16,), towers=(8,), experts=2)
    host = cuda_rows_checks.Host(peers.fields_of(config), peers.ROWS)
    batch, inputs = peers.draw(cuda_rows_checks, host, config, 40, seed=1)
    assert [x.shape for x in inputs] == [(40, 19), (40, 10), (40, 8)]
    models = [checks.model_of(library, config, "bf16") for _ in range(3)]
    ids = peers.rows_on_gpu(cuda_rows_checks, library, host, models[0])(peers.Case(batch, inputs, ()))
    whole = peers.from_host(models[1])(peers.Case(batch, inputs, ()))
    np.testing.assert_array_equal(ids(), whole())
    some = peers.rows_on_gpu(cuda_rows_checks, library, host, models[2], 0.5)(peers.Case(batch, inputs, ()))
    for _ in range(3):
        some.lose()
        np.testing.assert_array_equal(some(), whole())
    expected = reference_scores(config, checks.tensors_of(config), *inputs)
    np.testing.assert_allclose(whole(), expected, atol=checks.TOLERANCES["bf16"][1])


@pytest.fixture
def emulated(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(built))


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize(("precision", "options"), [("fp32", {}), ("bf16", {"graphs": False})])
def test_the_backend_scores_with_it(precision: str, options: dict[str, Any], reference_scores: Reference) -> None:
    bundle, given = checks.Bundle(), checks.inputs_of(checks.Bundle.config, 13)
    backend = create_backend(bundle, "native", precision, device="cuda", options=options)  # type: ignore[arg-type]
    assert isinstance(backend, CudaBackend)
    expected = reference_scores(bundle.config, bundle.dense(), *given)
    np.testing.assert_allclose(backend.run(Inputs(*given)), expected, atol=checks.TOLERANCES[precision][1])
    said = backend.describe()
    assert (said["backend"], said["device"], said["precision"]) == ("native", "cuda:0", precision)
    assert said["graphs"] is not bool(options)
    assert said["tf32"] is False
    assert said["gpu"]["name"] == "emulated"
    assert said["packed_bytes"] > 0


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("options", [{}, {"graphs": False}])
def test_arrays_of_torch_stay_where_they_are(built: Path, options: dict[str, Any]) -> None:
    bundle = checks.Bundle()
    backend = create_backend(bundle, "native", device="cuda", options=options)  # type: ignore[arg-type]
    assert isinstance(backend, CudaBackend)
    checks.arrays_stay_where_they_are(backend, bundle.config, torch.from_numpy, (0, 1, 8, 13), 0)
    copied, given = ctypes.CDLL(str(built)).pepnet_cuda_copied, checks.inputs_of(bundle.config, 13)
    copied()
    backend.run_on_device(*map(torch.from_numpy, given), torch.empty(13, 3), 0)
    assert copied() == 0
    backend.run(Inputs(*given))
    assert copied() >= 4 * sum(x.size for x in given)


def test_a_gpu_that_the_parent_uses_is_an_error_in_a_child(library: CudaLibrary) -> None:
    config = checks.config_of()
    model, given = checks.model_of(library, config, "fp32"), checks.inputs_of(config, 3)
    expected = model.run(*given)

    def refused() -> None:
        for call in (lambda: model.run(*given), lambda: library.devices, lambda: DeviceRows(library, {4: 8}, False, 0)):
            with pytest.raises(BackendError, match="start child processes with spawn or forkserver"):
                call()

    well_in_a_child(refused)
    np.testing.assert_array_equal(model.run(*given), expected)


def test_a_stream_that_is_being_captured_is_refused(library: CudaLibrary) -> None:
    config = checks.config_of()
    model, given = checks.model_of(library, config, "fp32"), checks.inputs_of(config, 3)
    scores = np.full((3, checks.TASKS), -1, np.float32)
    at = [x.ctypes.data for x in (*given, scores)]
    with pytest.raises(BackendError, match="stream: expected one that is not being captured"):
        model.run_at(*at, 3, 0xCA97)
    assert (scores == -1).all()
    model.run_at(*at, 3, 0)
    np.testing.assert_array_equal(scores, model.run(*given))


@pytest.mark.usefixtures("emulated")
def test_arrays_of_more_rows_than_the_largest_bucket() -> None:
    bundle = checks.Bundle()
    bundle.config = checks.config_of(layers=(3,), towers=(), experts=1)
    backend = create_backend(bundle, "native", device="cuda")  # type: ignore[arg-type]
    assert isinstance(backend, CudaBackend)
    checks.arrays_stay_where_they_are(backend, bundle.config, torch.from_numpy, (2051,), 0)


@pytest.mark.usefixtures("emulated")
def test_an_engine_takes_arrays_of_torch(toy_bundle: Path, toy_batch: Callable[..., dict[str, Any]]) -> None:
    with Engine.load(toy_bundle, backend="native", device="cuda") as engine:
        inputs = engine.bundle.config.inputs
        given = [torch.rand(5, width) for width in (inputs.general, inputs.domain, inputs.prior)]
        out = torch.empty(5, len(engine.tasks))
        assert engine.score_dense(*given, out=out) is out
        np.testing.assert_array_equal(out.numpy(), engine.score_dense(*(x.numpy() for x in given)))
        assert engine.stats()["rows"] == 10
        with pytest.raises(SchemaError, match="domain: expected 5 rows as in general, got 4"):
            engine.score_dense(given[0], given[1][:4], given[2], out=out)
        with pytest.raises(SchemaError, match=r"out: expected shape \[rows, \d\], got \[5, 1\]"):
            engine.score_dense(*given, out=out[:, :1])
        assert engine.stats()["errors"] == 2
    with (
        Engine.load(toy_bundle, backend="native") as engine,
        pytest.raises(BackendError, match="out: expected the native backend on a GPU"),
    ):
        engine.score_dense(*given, out=out)


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"precision": "int8"}, "precision: native on cuda has fp32, bf16, got 'int8'"),
        ({"device": "cuda:4"}, "device: expected cuda:0 to cuda:1, got cuda:4"),
    ],
)
def test_what_is_not_there_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        create_backend(checks.Bundle(), "native", **{"device": "cuda", **asked})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spin": True}, "options: native on cuda has graphs, rows, got 'spin'"),
        ({"graphs": 1}, "options.graphs: expected true or false, got 1"),
        ({"rows": "much"}, "options.rows: expected bytes, .*, got 'much'"),
        ({"rows": 1.5}, "options.rows: expected an integer or text or None, got 1.5"),
    ],
)
def test_options_that_cannot_be_are_config_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_backend(checks.Bundle(), "native", device="cuda", options=options)  # type: ignore[arg-type]


def test_a_library_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "libpepnet_cuda.so"
    path.write_bytes(b"no library")
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(BackendError, match=r"libpepnet_cuda\.so cannot be loaded"):
        create_backend(checks.Bundle(), "native", device="cuda")  # type: ignore[arg-type]
