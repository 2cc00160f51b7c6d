"""Backends are what was asked for, or an error: never something else in silence."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest
from children import well_in_a_child
from small_graph import graph

from pepnet_infer import BackendError, ConfigError, Engine
from pepnet_infer.backends import ort
from pepnet_infer.backends.create import create_backend
from pepnet_infer.backends.cuda.driver import no_gpu_because
from pepnet_infer.backends.ort_library import import_onnxruntime
from pepnet_infer.backends.ort_session import OrtSession
from pepnet_infer.backends.protocol import Settings
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.process.cpu import available_threads
from pepnet_infer.schema.inputs import Inputs


@pytest.fixture(scope="module")
def bundle(toy_bundle: Path) -> Bundle:
    return Bundle.open(toy_bundle)


def inputs(rows: int) -> Inputs:
    general = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
    return Inputs(general, np.zeros((rows, 2), np.float32), np.zeros((rows, 0), np.float32))


def test_a_backend_says_what_it_is_and_why(bundle: Bundle) -> None:
    description = create_backend(bundle, "onnxruntime").describe()
    assert description["backend"] == "onnxruntime"
    assert description["version"] == onnxruntime.__version__
    assert description["precision"] == "fp32"
    assert description["threads"] == available_threads()
    named = create_backend(bundle, "onnxruntime", threads=1).describe()
    assert (named["device"], named["threads"], named["why"]) == ("cpu", 1, "asked for")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"backend": "tpu"},
            r"^backend: expected one of auto, native, onnxruntime, got 'tpu'$",
        ),
        ({"backend": ""}, r"^backend: expected one of auto, native, onnxruntime, got ''$"),
        ({"backend": "cuda"}, r"onnxruntime, got 'cuda': ask for backend='native', device='cuda'$"),
        ({"precision": "fp16"}, r"auto found none .*: native: precision: .* 'fp16'; onnxruntime: precision: .* 'fp16'"),
        ({"backend": "onnxruntime", "precision": "bf16"}, r"^precision: onnxruntime has fp32, got 'bf16'"),
        ({"backend": "onnxruntime", "precision": "int8"}, r"^precision: onnxruntime has fp32, got 'int8'"),
        ({"backend": "onnxruntime", "options": {"graphs": True}}, r"^options.graphs: only device cuda has it, got cpu"),
        ({"options": {"isa": "scalar", "graphs": True}}, r"onnxruntime has spin, graphs, tensorrt, got 'isa'$"),
        ({"backend": "onnxruntime", "options": {"tensorrt": True}}, r"^options.tensorrt: only device cuda has it, got"),
    ],
)
def test_what_is_not_there_is_refused(toy_bundle: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        Engine.load(toy_bundle, check="sizes", **asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"backend": "onnxruntime", "options": {"isa": "avx2"}},
            r"^options: onnxruntime has spin, graphs, tensorrt, got 'isa'",
        ),
        ({"backend": "onnxruntime", "options": {"spin": 1}}, r"^options\.spin: expected true or false, got 1"),
        ({"options": {"spinn": True}}, r"^options: native has spin, .*got 'spinn'; options: onnxruntime has"),
        ({"options": {"spin": "yes"}}, r"^options\.spin: expected true or false, got 'yes'"),
        ({"options": {"graphs": "yes"}}, r"^options\.graphs: expected true or false or None, got 'yes'"),
        ({"options": {"isa": 2}}, r"^options\.isa: expected text, got 2"),
        ({"options": 5}, r"^options: expected a mapping"),
        ({"threads": 0}, r"^threads: expected an integer from 1 to 1024 or None, got 0"),
        ({"backend": "native", "threads": True}, r"^threads: expected an integer from 1 to 1024 or None, got True"),
        ({"device": "gpu"}, r"^device: expected cpu, cuda, cuda:N or auto, got 'gpu'$"),
        ({"device": "cpu:1"}, r"^device: expected cpu, cuda, cuda:N or auto, got 'cpu:1'$"),
        ({"device": None}, r"^device: expected text, got None$"),
        ({"check": "some"}, r"^check: expected one of full, sizes, got 'some'"),
    ],
)
def test_options_that_cannot_be_are_config_errors(toy_bundle: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Engine.load(toy_bundle, **{"check": "sizes", **asked})


@pytest.mark.parametrize("threads", [0, 100_000, 1.5, True])
def test_a_number_of_threads_that_is_none_is_refused(toy_bundle: Path, threads: Any) -> None:
    with pytest.raises(ConfigError, match=rf"threads: expected an integer from 1 to 1024 or None, got {threads}$"):
        Engine.load(toy_bundle, check="sizes", threads=threads)


def test_cuda_without_a_gpu_is_an_error(toy_bundle: Path) -> None:
    if no_gpu_because() is None:
        pytest.skip("this machine has a GPU")
    for backend in ("auto", "onnxruntime", "native"):
        for device in ("cuda", "cuda:3"):
            with pytest.raises(BackendError, match=f"device: (expected {device}, but |cuda: )"):
                Engine.load(toy_bundle, backend=backend, device=device)


def test_no_onnxruntime_names_the_extra_that_has_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"onnxruntime cannot be imported .*pip install 'pepnet-infer\[cpu\]'"):
        create_backend(bundle, "onnxruntime")
    monkeypatch.setattr(ort, "no_gpu_because", lambda: None)
    taken = create_backend(bundle, device="auto").describe()
    assert taken["backend"] == "native"
    assert "expected cuda, but backend: onnxruntime cannot be imported" in taken["why"]


class FakeSession:
    """A session that starts the CUDA provider only if `cuda_starts`, and says nothing either way."""

    cuda_starts = False
    asked: Any = None

    def __init__(self, path: str, options: Any, providers: Any) -> None:
        type(self).asked = providers
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.fallback = True

    def get_providers(self) -> list[str]:
        names = [name for name, _ in self.asked if self.cuda_starts or name != "CUDAExecutionProvider"]
        return [*names, *({"CPUExecutionProvider"} - set(names))]

    def disable_fallback(self) -> None:
        self.fallback = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    """An onnxruntime that was built with CUDA, on a machine whose driver works."""

    class Session(FakeSession):
        pass

    fake = SimpleNamespace(
        InferenceSession=Session,
        SessionOptions=onnxruntime.SessionOptions,
        ExecutionMode=onnxruntime.ExecutionMode,
        __version__="9.9",
        get_available_providers=lambda: [
            "TensorrtExecutionProvider",
            "CUDAExecutionProvider",
            "CPUExecutionProvider",
        ],
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr(ort, "no_gpu_because", lambda: None)
    return Session


def test_another_device_than_the_one_asked_for_is_an_error(bundle: Bundle, cuda_build: type[FakeSession]) -> None:
    for backend in ("auto", "onnxruntime"):
        with pytest.raises(BackendError, match="device: expected CUDAExecutionProvider, got CPUExecutionProvider"):
            create_backend(bundle, backend, device="cuda")
    ((name, options),) = cuda_build.asked
    assert name == "CUDAExecutionProvider"
    assert options == {"device_id": "0", "use_tf32": "0", "enable_cuda_graph": "1"}
    with pytest.raises(BackendError, match="expected CUDAExecutionProvider"):
        create_backend(bundle, "onnxruntime", device="cuda:1", options={"graphs": False})
    assert cuda_build.asked == [("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"})]


def test_tensorrt_leaves_the_rest_to_cuda(bundle: Bundle, cuda_build: type[FakeSession]) -> None:
    cuda_build.cuda_starts = True
    made = create_backend(bundle, "onnxruntime", device="cuda:1", options={"tensorrt": True}).describe()
    assert [name for name, _ in cuda_build.asked] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert (made["device"], made["tensorrt"], made["graphs"], made["tf32"]) == ("cuda:1", True, False, False)
    with pytest.raises(BackendError, match=r"options\.graphs: expected none with tensorrt"):
        create_backend(bundle, "onnxruntime", device="cuda", options={"tensorrt": True, "graphs": True})


class Noted(onnxruntime.RunOptions):  # type: ignore[misc]
    """Run options that say what was asked of them."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def add_run_config_entry(self, name: str, value: str) -> None:
        self.asked.append((name, value))


class HostValue:
    """What onnxruntime has on a GPU, on the host."""

    @staticmethod
    def ortvalue_from_numpy(array: np.ndarray, kind: str, number: int) -> Any:
        assert (kind, number) == ("cuda", 1)
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)

    @staticmethod
    def ortvalue_from_shape_and_type(shape: list[int], dtype: Any, kind: str, number: int) -> Any:
        assert (kind, number) == ("cuda", 1)
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype)


@pytest.mark.parametrize("graphs", [False, True])
def test_buckets_score_what_a_plain_run_does(
    tmp_path: Path, graphs: bool, cuda_build: type[FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    Noted.asked.clear()
    cuda_build.cuda_starts = True
    for name, value in (("OrtValue", HostValue), ("RunOptions", Noted)):
        monkeypatch.setattr(sys.modules["onnxruntime"], name, value, raising=False)
    settings = Settings(device="cuda:1", options={"graphs": graphs})
    backend = ort.OrtBackend(graph(tmp_path / "g.onnx"), settings)
    scored = []
    for rows in (5, 0, 1, 8, 9, 2048, 2049, 4100, 5):
        given = inputs(rows)
        scored.append((backend.run(given), given.general))
    for scores, general in scored:  # each call's are its own
        np.testing.assert_array_equal(scores, np.repeat(general.sum(axis=1, keepdims=True), 2, axis=1))
    assert sorted(Noted.asked) == [("gpu_graph_id", str(n)) for n in (1, 2048, 32, 8)] * graphs


@pytest.mark.parametrize("rows", [0, 3])
def test_a_forked_child_cannot_use_a_gpu_of_its_parent(
    tmp_path: Path, rows: int, cuda_build: type[FakeSession]
) -> None:
    cuda_build.cuda_starts = True
    backend = ort.OrtBackend(graph(tmp_path / "g.onnx"), Settings(device="cuda:1"))

    def refused() -> None:
        with pytest.raises(BackendError, match="device: a GPU cannot be used in a child forked from a process"):
            backend.run(inputs(rows))

    well_in_a_child(refused)


def test_device_auto_takes_a_gpu_that_works_and_tells_when_it_does_not(
    bundle: Bundle, cuda_build: type[FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(**words: Any) -> dict[str, Any]:
        return create_backend(bundle, **words).describe()

    failed = create(device="auto")
    assert (failed["backend"], failed["device"]) == ("native", "cpu")
    assert "onnxruntime on cuda: device: expected CUDAExecutionProvider, got CPUExecutionProvider" in failed["why"]
    cuda_build.cuda_starts = True
    taken = create(device="auto")
    assert (taken["backend"], taken["device"]) == ("onnxruntime", "cuda:0")
    assert taken["why"] == "auto: onnxruntime on cuda: it runs this model"
    assert create(device="cuda")["why"] == taken["why"]
    for words in ({}, {"device": "cpu"}, {"device": "auto", "options": {"isa": "scalar"}}):
        other = create(**words)
        assert (other["backend"], other["device"]) == ("native", "cpu")
    assert create(backend="onnxruntime")["device"] == "cpu"
    monkeypatch.setattr(ort, "no_gpu_because", lambda: "the driver is on strike")
    assert "onnxruntime on cuda cannot: device: expected cuda, but the driver is on" in create(device="auto")["why"]
    with pytest.raises(BackendError, match=r"^device: expected cuda, but the driver is on strike$"):
        create(backend="onnxruntime", device="cuda")
    with pytest.raises(BackendError, match=r"auto found none .*: onnxruntime on cuda: device: .*; native on cuda: dev"):
        create(device="cuda")


def test_the_driver_is_asked_not_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert no_gpu_because("libnothing-of-this-name.so") is not None

    def driver(init: int, count_code: int, count: int) -> Callable[[str], Any]:
        def device_count(pointer: Any) -> int:
            pointer._obj.value = count
            return count_code

        return lambda _: SimpleNamespace(cuInit=lambda _: init, cuDeviceGetCount=device_count)

    for answers, expected in (
        ((0, 0, 2), None),
        ((100, 0, 0), "the NVIDIA driver does not start (cuInit returned 100)"),
        ((0, 0, 0), "the NVIDIA driver shows no GPU (cuDeviceGetCount returned 0, 0 found)"),
        ((0, 3, 1), "the NVIDIA driver shows no GPU (cuDeviceGetCount returned 3, 1 found)"),
    ):
        monkeypatch.setattr(ctypes, "CDLL", driver(*answers))
        assert no_gpu_because() == expected


def test_large_batches_are_cut_at_multiples_of_the_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Spy(OrtSession):
        def run(self, outputs: Any, feed: Any) -> Any:
            assert set(feed) == {"general"}  # what no layer reads is not in the graph
            seen.append(len(feed["general"]))
            return super().run(outputs, feed)

    monkeypatch.setattr(ort, "OrtSession", Spy)
    backend = ort.OrtBackend(graph(tmp_path / "g.onnx"), Settings(threads=1))
    for rows in (0, 1, ort.CHUNK_ROWS - 1, ort.CHUNK_ROWS, ort.CHUNK_ROWS + 1, 2 * ort.CHUNK_ROWS + 5):
        seen.clear()
        given = inputs(rows)
        out = backend.run(given)
        assert out.shape == (rows, 2)
        assert np.array_equal(out, np.repeat(given.general.sum(axis=1, keepdims=True), 2, axis=1))
        assert sum(seen) == rows
        assert all(size == ort.CHUNK_ROWS for size in seen[:-1])


@pytest.mark.gpu
@pytest.mark.skipif(no_gpu_because() is not None, reason="no GPU answers")
def test_cuda_scores_are_those_of_the_cpu(toy_bundle: Path, toy_batch: Callable[..., dict[str, Any]]) -> None:
    with (
        Engine.load(toy_bundle, device="cuda", backend="onnxruntime") as gpu,
        Engine.load(toy_bundle, backend="onnxruntime") as cpu,
    ):
        assert gpu.stats()["backend"]["device"] == "cuda:0"
        for rows in (1, 7, 1000):
            batch = toy_batch(rows)
            assert np.abs(gpu.score(batch).values - cpu.score(batch).values).max() <= 1e-5


def test_what_onnxruntime_raises_in_a_run_is_a_backend_error_and_nothing_else_is() -> None:
    fails = import_onnxruntime().capi.onnxruntime_pybind11_state.Fail
    raised: list[Exception] = [fails("Failed to allocate memory"), RuntimeError("pthread_create"), TimeoutError("mine")]

    class Session:
        def run(self, outputs: object, feed: object) -> None:
            raise raised[0]

    session = OrtSession(lambda graph: Session(), b"")
    feed = {"general": np.zeros((3, 2), np.float32)}
    for _ in range(2):
        with pytest.raises(BackendError, match=r"^onnxruntime: expected scores of 3 rows, got: (Fail|pthread)"):
            session.run(["scores"], feed)
        del raised[0]
    with pytest.raises(TimeoutError, match="mine"):  # of a signal handler, say
        session.run(["scores"], feed)
