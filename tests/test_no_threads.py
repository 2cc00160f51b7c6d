"""A process that can have no more threads (a container's pids.max, ulimit -u): errors that say so."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import pytest
from children import well_in_a_child

from pepnet_infer import BackendError, Engine, UpdateError
from pepnet_infer.backends.ort import OrtBackend
from pepnet_infer.backends.ort_library import import_onnxruntime
from pepnet_infer.backends.protocol import Settings
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.sync.logs.directory import DirectoryLog


def take_threads_away() -> None:
    """From here on this process can start none. For a child alone: there is no way back."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    if os.getuid() == 0:  # the limit does not hold for root
        os.setuid(65534)


def test_onnxruntime_says_that_it_has_no_thread_and_not_that_the_bundle_is_damaged(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_onnxruntime()
    bundle = Bundle.open(toy_bundle, check="sizes")
    graph = bundle.onnx_path.read_bytes()
    monkeypatch.setattr(Bundle, "onnx", lambda bundle: graph)  # whoever the child is may not be let into the folder

    def work() -> None:
        take_threads_away()
        with pytest.raises(BackendError, match=r"threads: expected 2 for onnxruntime, but .* ask for threads=1"):
            OrtBackend(bundle, Settings(threads=2))
        assert OrtBackend(bundle, Settings(threads=1)).describe()["threads"] == 1

    well_in_a_child(work)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.usefixtures("no_threads")
def test_an_engine_that_cannot_follow_says_so_and_serves_on(toy_bundle: Path, tmp_path: Path) -> None:
    with Engine.load(toy_bundle, backend="native", threads=1, check="sizes") as engine:
        log = DirectoryLog(tmp_path, create=True)
        for _ in range(2):  # and may try again
            with pytest.raises(UpdateError, match="follow: expected a thread to follow with, but") as caught:
                engine.follow(log)
            assert caught.value.reason == "threads"
        assert engine.stats()["sync"] is None
