"""A program that ends while threads are inside native code ends well."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pepnet_infer.process import exits
from pepnet_infer.process.exits import Inside

pytestmark = pytest.mark.concurrency

PATIENCE_S = 60
#: Lives until the modules go, which is when the interpreter is being finalized: threads that come out of native code
#: meanwhile find no interpreter to come back to.
LINGERS = """
class Lingers:
    def __del__(self, sleep=__import__("time").sleep):
        sleep(0.2)
lingers = Lingers()
"""
IN_KERNELS = """
import sys, threading
import numpy as np
from pepnet_infer import _kernels
keys = np.arange(40_000, dtype=np.uint64)
rows = np.ones((len(keys), 16), np.float32)
cache = _kernels.RowCache(16, 16 << 20, "lru")
table = _kernels.Table(keys, rows, np.zeros(16, np.float32))
entered = [threading.Event() for _ in range(4)]
def work(which):
    out = np.empty((len(keys), 16), np.float32)
    while True:
        if which == 0:
            cache.write(keys, rows, versions=keys, update=False)
        elif which == 1:
            cache.lookup(keys, out)
        elif which == 2:
            table.lookup(keys, out)
        else:
            try:
                _kernels.pool(rows, np.array([0, len(keys) + 1]), "sum", out[:1])
            except ValueError:  # a C++ exception is on its way when the lock is taken again
                pass
        entered[which].set()
for which in range(4):
    threading.Thread(target=work, args=(which,), daemon=True).start()
for event in entered:
    event.wait()
"""
IN_A_FINALIZER = """
import sys, threading, time
import numpy as np
from pepnet_infer import _kernels
entered = threading.Event()
class Held:
    def __call__(self, *arguments):
        pass
    def __del__(self, entered=entered, sleep=time.sleep):
        entered.set()
        while True:
            sleep(0.001)
def pins():
    _kernels.Pins(Held())
def fetch():
    fetches, keys = _kernels.Fetches(), np.arange(3, dtype=np.uint64)
    fetches.ask(_kernels.FlightTable(), keys, fetches.ended, lambda mine, at, others: mine.settle(Held(), None))
def handed():
    fetches, keys = _kernels.Fetches(), np.arange(3, dtype=np.uint64)
    def hand_over(mine, at, others):
        fetches.hand_over(mine, Held())
    fetches.ask(_kernels.FlightTable(), keys, fetches.ended, hand_over)
threading.Thread(target=globals()[sys.argv[1]], daemon=True).start()
entered.wait()
"""
IN_A_FETCH = """
import logging, sys, threading
import numpy as np
from pepnet_infer.rows.cache.cached_rows import CachedRows
from pepnet_infer.rows.protocols import CachedTable, RowRequest
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.rows.cache.embedding_cache import EmbeddingCache
from pepnet_infer.rows.stores.memory import MemoryStore
keys = np.arange(2000, dtype=np.uint64)
store = MemoryStore()
store.put_many(keys, np.ones((len(keys), 8), np.float32), np.ones(len(keys), np.uint64))
table = CachedTable("t", 0, 8, len(keys), np.zeros(8, np.float32))
logging.getLogger("pepnet_infer").setLevel(logging.ERROR)  # that batches are late is expected
config = CacheConfig("lru", "1MiB", budget_ms=float(sys.argv[1]) if len(sys.argv) > 1 else None)
rows = CachedRows(store, [table], {8: EmbeddingCache(8, "1MiB", admission=0.0)}, config)
entered = [threading.Event() for _ in range(3)]
def work(which):
    out = np.empty((len(keys), 8), np.float32)
    while True:
        rows.answer([RowRequest("", "t", keys, out)])
        entered[which].set()
for which in range(3):
    threading.Thread(target=work, args=(which,), daemon=True).start()
for event in entered:
    event.wait()
"""
IN_AN_ENGINE = """
import sys, threading
import pyarrow.parquet as pq
from pepnet_infer import Engine
engine = Engine.load(sys.argv[1], backend=sys.argv[2], threads=2, check="sizes")
batch = pq.read_table(sys.argv[3])
entered = [threading.Event() for _ in range(3)]
def work(which):
    while True:
        engine.score(batch)
        entered[which].set()
for which in range(3):
    threading.Thread(target=work, args=(which,), daemon=True).start()
for event in entered:
    event.wait()
"""


#: `atexit` calls the last to register first: what was registered before the package comes after it.
JOINED_AT_THE_END = """
import atexit, threading
ended = threading.Event()
def end():
    ended.set()
    thread.join()
atexit.register(end)
import sys
import pyarrow.parquet as pq
from pepnet_infer import Engine
engine = Engine.load(sys.argv[1], backend=sys.argv[2], threads=2, check="sizes")
batch = pq.read_table(sys.argv[3])
entered = threading.Event()
def work():
    while not ended.is_set():
        engine.score(batch)
        entered.set()
thread = threading.Thread(target=work, daemon=True)
thread.start()
entered.wait()
"""


def _ends_well(code: str, *arguments: object) -> None:
    command = [sys.executable, "-c", code + LINGERS, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, "")


def test_daemon_threads_inside_the_kernels() -> None:
    _ends_well(IN_KERNELS)


@pytest.mark.parametrize("held_by", ["pins", "fetch", "handed"])
def test_daemon_threads_in_finalizers_of_what_the_extension_held(held_by: str) -> None:
    _ends_well(IN_A_FINALIZER, held_by)


@pytest.mark.parametrize("arguments", [(), (0.5,)])
def test_daemon_threads_in_python_code_that_the_extension_calls(arguments: tuple[float, ...]) -> None:
    _ends_well(IN_A_FETCH, *arguments)


@pytest.mark.parametrize("backend", ["native", "onnxruntime"])
def test_daemon_threads_inside_an_engine(
    toy_bundle: Path, toy_table: Callable[..., pa.Table], tmp_path: Path, backend: str
) -> None:
    pq.write_table(toy_table(300), tmp_path / "batch.parquet")
    _ends_well(IN_AN_ENGINE, toy_bundle, backend, tmp_path / "batch.parquet")


@pytest.mark.parametrize("backend", ["native", "onnxruntime"])
def test_a_daemon_thread_that_is_joined_at_the_end(
    toy_bundle: Path, toy_table: Callable[..., pa.Table], tmp_path: Path, backend: str
) -> None:
    pq.write_table(toy_table(300), tmp_path / "batch.parquet")
    _ends_well(JOINED_AT_THE_END, toy_bundle, backend, tmp_path / "batch.parquet")


def test_the_extension_lets_go_of_the_lock_in_one_way() -> None:
    sources = Path(__file__).parents[2] / "kernels"
    others = [path.name for path in sources.rglob("*.cc") if "gil_scoped" in path.read_text()]
    assert others == []


def test_the_end_waits_for_those_inside_and_keeps_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, entered, go = Inside(), threading.Event(), threading.Event()
    late, ended = threading.Event(), threading.Event()

    def first() -> None:
        with inside:
            entered.set()
            go.wait(PATIENCE_S)

    def second() -> None:
        try:
            with inside:
                late.set()
        except SystemExit:
            ended.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(PATIENCE_S)
    monkeypatch.setattr(exits, "PATIENCE_S", 0.0)
    assert not inside.end()  # it does not come out
    monkeypatch.setattr(exits, "PATIENCE_S", float(PATIENCE_S))
    go.set()
    assert inside.end()
    thread.join(PATIENCE_S)
    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    assert ended.wait(PATIENCE_S)  # for somebody may wait for it
    assert not late.is_set()
    with inside:  # whoever ends the interpreter may still call
        pass


def test_a_thread_that_died_inside_is_not_waited_for() -> None:
    inside = Inside()
    thread = threading.Thread(target=inside.__enter__)
    thread.start()
    thread.join(PATIENCE_S)
    assert inside.end()
