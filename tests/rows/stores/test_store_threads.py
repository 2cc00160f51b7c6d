"""Many threads on one store: right answers, exact counts, and no harm when it is closed or replaced meanwhile."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from row_questions import look_up, pool

from pepnet_infer.errors import StoreError
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.storage.tensorfile import write_tensors

pytestmark = pytest.mark.concurrency

ROWS, DIM, THREADS = 5_000, 8, 8


def write(path: Path, scale: float) -> None:
    keys = np.arange(ROWS, dtype=np.uint64) * np.uint64(2)
    rows = np.repeat(np.arange(ROWS, dtype=np.float32)[:, None] * np.float32(scale), DIM, axis=1)
    tensors = {"keys": keys, "rows": rows, "scores": np.zeros(ROWS, np.float32)}
    write_tensors(path, tensors | {"default": np.full(DIM, -1, np.float32)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "t.safetensors", 1.0)
    return tmp_path / "t.safetensors"


@pytest.fixture(autouse=True)
def _switch_often() -> object:
    """Lets threads change places often, so that a race has more chances to show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def run_threads(work: Callable[[int], None]) -> None:
    failures: list[BaseException] = []

    def guarded(seed: int) -> None:
        try:
            work(seed)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def ask(store: MmapStore, rng: np.random.Generator) -> None:
    """One lookup, one pool and one question, checked."""
    keys = rng.integers(0, ROWS * 2, 300, dtype=np.uint64)
    expected = np.where(keys % 2 == 0, keys // 2, 0).astype(np.float64) - (keys % 2)
    out, pooled = np.empty((300, DIM), np.float32), np.empty((3, DIM), np.float32)
    unknown = look_up(store, "t", keys, out)
    np.testing.assert_array_equal(out, np.repeat(expected[:, None], DIM, axis=1))
    assert unknown == (keys % 2).sum()
    assert pool(store, "t", keys, np.array([0, 100, 200, 300]), "sum", pooled) == unknown
    np.testing.assert_allclose(pooled[:, 0], expected.reshape(3, 100).sum(axis=1), rtol=1e-6)
    got = store.get_many(keys, DIM)
    np.testing.assert_array_equal(got.rows, np.where(got.found[:, None], out, 0))
    np.testing.assert_array_equal(got.found, keys % 2 == 0)


def test_answers_are_right(path: Path) -> None:
    store = MmapStore({"t": path})

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(30):
            ask(store, rng)

    run_threads(work)


def test_a_store_closed_under_load_answers_right_or_says_so(path: Path) -> None:
    for _ in range(5):
        store = MmapStore({"t": path})
        all_served = threading.Barrier(THREADS)
        run_threads(partial(serve_until_closed, store, all_served))


def serve_until_closed(store: MmapStore, all_served: threading.Barrier, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ask(store, rng)
    all_served.wait()
    if seed == 0:
        store.close()

    def ask_on() -> None:
        while True:
            ask(store, rng)

    with pytest.raises(StoreError, match="expected an open one, got one that was closed"):
        ask_on()


def test_a_file_replaced_under_load_is_served_as_it_was(path: Path) -> None:
    store = MmapStore({"t": path})

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for round in range(20):
            if seed == 0:
                other = path.with_name(f"next-{round}")
                write(other, scale=2.0 + round)
                other.replace(path)
            ask(store, rng)

    run_threads(work)
    fresh = np.empty((1, DIM), np.float32)
    look_up(MmapStore({"t": path}), "t", np.array([2], np.uint64), fresh)
    assert fresh[0, 0] == 21.0
