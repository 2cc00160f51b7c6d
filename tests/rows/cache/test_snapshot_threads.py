"""A snapshot is taken while readers read and writers write: every row in it was there, with its version."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pepnet_infer import _kernels
from pepnet_infer.rows.cache import snapshot

pytestmark = pytest.mark.concurrency

DIM = 24
IDS = 1500


def rows_of(keys: npt.NDArray[np.uint64], versions: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
    first = keys * np.uint64(7) + versions * np.uint64(13)
    return ((first[:, None] + np.arange(DIM, dtype=np.uint64)) % np.uint64(1 << 20)).astype(np.float32)


def test_every_row_of_a_snapshot_was_there(tmp_path: Path) -> None:
    cache = _kernels.RowCache(DIM, 1 << 19, "lru", "float32")
    stop = threading.Event()
    failures: list[BaseException] = []
    newest = [0, 0]

    def write(thread: int) -> None:
        rng = np.random.default_rng(thread)
        version = 1
        while not stop.is_set():
            keys = rng.integers(0, IDS, 200, np.uint64)
            versions = np.full(200, 2 * version + thread, np.uint64)
            cache.write(keys, rows_of(keys, versions), versions=versions, update=True)
            if thread == 1:
                cache.erase(keys[:5], versions[:5] + np.uint64(1))
            newest[thread] = 2 * version + thread
            version += 1

    def read() -> None:
        out = np.empty((IDS, DIM), np.float32)
        keys = np.arange(IDS, dtype=np.uint64)
        while not stop.is_set():
            cache.lookup(keys, out)

    def watched(work: Any, *args: Any) -> None:
        try:
            work(*args)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=watched, args=(write, 0)), threading.Thread(target=watched, args=(write, 1))]
    threads.append(threading.Thread(target=watched, args=(read,)))
    for thread in threads:
        thread.start()
    seen = 0
    highest: list[int] = []
    try:
        end = time.monotonic() + 1.5
        while time.monotonic() < end or len(highest) < 3:
            snapshot.save(cache, tmp_path / "s")
            fresh = _kernels.RowCache(DIM, 1 << 19, "lru", "float32")
            snapshot.load(fresh, tmp_path / "s")
            for index in range(fresh.parts):
                part = fresh.part(index)
                rows = part["outcome"] == 1
                seen += int(rows.sum())
                np.testing.assert_array_equal(part["rows"][rows], rows_of(part["keys"], part["version"])[rows])
                if len(part["version"]):
                    highest.append(int(part["version"].max()))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures
    assert seen > 3 * IDS // 2
    assert highest[-1] > highest[0]
    assert max(highest) <= max(newest) + 3
