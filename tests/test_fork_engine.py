"""An engine of a parent process, used in forked children."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from children import run_program, well_in_a_child

from pepnet_infer import BackendError, Engine
from pepnet_infer.backends.ort_session import OrtSession

pytestmark = pytest.mark.concurrency


@pytest.fixture(params=["native", "onnxruntime"])
def engine(request: pytest.FixtureRequest, toy_bundle: Path) -> Iterator[Engine]:
    with Engine.load(toy_bundle, backend=request.param, threads=2, check="sizes") as engine:
        yield engine


def test_a_child_scores_the_same_and_ends_well(engine: Engine, toy_batch: Callable[..., Any]) -> None:
    batch = toy_batch(300)
    expected = engine.score(batch).values

    def work() -> None:
        assert np.array_equal(engine.score(batch).values, expected)
        engine.close()

    well_in_a_child(work)
    well_in_a_child(lambda: well_in_a_child(work))  # a child of a child too
    assert np.array_equal(engine.score(batch).values, expected)


def test_forks_while_threads_score(engine: Engine, toy_batch: Callable[..., Any]) -> None:
    batch = toy_batch(300)
    expected, stop = engine.score(batch).values, threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            engine.score(batch)

    def work() -> None:
        threads = [threading.Thread(target=engine.score, args=(batch,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert np.array_equal(engine.score(batch).values, expected)
        for thread in threads:
            thread.join()

    callers = [threading.Thread(target=keep_busy) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        for _ in range(10):
            well_in_a_child(work)
    finally:
        stop.set()
        for caller in callers:
            caller.join()


PROGRAM = """
import os, sys, threading
import pyarrow.parquet as pq
from children import ended
from pepnet_infer import Engine
engine = Engine.load(sys.argv[1], backend=sys.argv[2], threads=2, check="sizes")
batch = pq.read_table(sys.argv[3])
engine.score(batch)
for used, closed in ((False, False), (True, False), (True, True)):
    pid = os.fork()
    if pid == 0:
        if used:
            engine.score(batch)
        if closed:
            engine.close()
        sys.exit(0)  # with all that the interpreter does at its end
    assert ended(pid) == 0, (used, closed)
"""


@pytest.mark.parametrize("backend", ["native", "onnxruntime"])
def test_a_program_and_its_children_end_well(
    toy_bundle: Path, toy_table: Callable[..., pa.Table], tmp_path: Path, backend: str
) -> None:
    pq.write_table(toy_table(50), tmp_path / "batch.parquet")
    run_program(PROGRAM, toy_bundle, backend, tmp_path / "batch.parquet", timeout=240)


def test_a_child_reads_the_graph_that_the_parent_read(
    toy_bundle: Path, tmp_path: Path, toy_batch: Callable[..., Any]
) -> None:
    bundle, batch = tmp_path / "bundle", toy_batch(20)
    shutil.copytree(toy_bundle, bundle)
    with Engine.load(bundle, backend="onnxruntime", threads=1, check="sizes") as engine:
        expected = engine.score(batch).values
        os.rename(bundle, tmp_path / "older")  # as a newer bundle takes its place

        def same() -> None:
            assert np.array_equal(engine.score(batch).values, expected)

        well_in_a_child(same)
        with (tmp_path / "older" / "dense.onnx").open("ab") as file:
            file.write(b"x")

        def refused() -> None:
            with pytest.raises(BackendError, match="got a file changed in place: load the engine again"):
                engine.score(batch)

        well_in_a_child(refused)


def test_a_child_is_told_that_it_cannot_use_the_gpu_of_its_parent(toy_bundle: Path) -> None:
    session = OrtSession(lambda graph: object(), toy_bundle / "dense.onnx", on_gpu=True)

    def refused() -> None:
        with pytest.raises(BackendError, match=r"load the engine in the child, and start .* with spawn or forkserver"):
            session.run(["scores"], {})

    well_in_a_child(refused)
