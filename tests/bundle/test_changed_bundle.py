"""Files that are changed under an engine that serves them: no crash, no rows of another version, and it is said."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from row_questions import look_up

from pepnet_infer import CacheConfig, Engine
from pepnet_infer.bundle import watch as bundle_watch
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.table_file import open_table
from pepnet_infer.errors import BundleError, StoreError
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.storage.tensorfile import MappedFile

pytestmark = pytest.mark.hostile

TABLE = "tables/video.safetensors"
Batch = Callable[[int], dict[str, Any]]
IN_PLACE = r"video\.safetensors: expected a file that stays as it was opened, got one that was changed in place"


@pytest.fixture
def live(toy_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_bundle, tmp_path / "live"))


def overwrite(path: Path, keep_times: bool = False) -> None:
    """Writes other bytes of the same number into a file, its rows too."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(before.st_size // 2)
        file.write(bytes(before.st_size - before.st_size // 2))
    modified = before.st_mtime_ns + (0 if keep_times else 1)
    while path.stat().st_ctime_ns == before.st_ctime_ns or path.stat().st_mtime_ns != modified:
        os.utime(path, ns=(before.st_atime_ns, modified))  # again until the file system's clock has ticked


def ask(store: MmapStore) -> np.ndarray:
    keys = store.files["video"].keys
    out = np.empty((len(keys), store.files["video"].rows.shape[1]), np.float32)
    look_up(store, "video", np.array(keys), out)
    return out


def store_of(root: Path) -> MmapStore:
    bundle = Bundle.open(root)
    return MmapStore(bundle.table_paths, bundle.schema.table_by_name, hashes=bundle.table_hashes)


@pytest.mark.parametrize("size", [0, 8, 4096])
def test_a_table_that_is_cut_is_an_error_and_no_crash(live: Path, size: int) -> None:
    store = store_of(live)
    ask(store)
    os.truncate(live / TABLE, min(size, (live / TABLE).stat().st_size - 1))
    for _ in range(2):
        with pytest.raises(StoreError, match=IN_PLACE):
            ask(store)
    other = np.empty((1, store.files["user"].rows.shape[1]), np.float32)
    look_up(store, "user", np.zeros(1, np.uint64), other)  # the other tables are what they were


def test_a_table_that_grows_again_after_it_was_cut_is_an_error(live: Path) -> None:
    store = store_of(live)
    whole = (live / TABLE).read_bytes()
    with open(live / TABLE, "r+b") as file:
        file.truncate(0)
        file.write(whole)
    before = os.stat(live / TABLE)
    os.utime(live / TABLE, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(StoreError, match=IN_PLACE):
        ask(store)


@pytest.mark.parametrize("keep_times", [False, True])
def test_rows_written_in_place_are_not_served(live: Path, keep_times: bool) -> None:
    store = store_of(live)
    overwrite(live / TABLE, keep_times)
    with pytest.raises(StoreError, match=IN_PLACE):
        ask(store)
    with pytest.raises(StoreError, match=IN_PLACE):
        store.get_many(np.array(store.files["video"].keys[:1]), store.files["video"].rows.shape[1])
    with pytest.raises(StoreError, match=IN_PLACE):
        store.check_reachable()


def test_what_does_not_change_the_content_changes_nothing(live: Path) -> None:
    store = store_of(live)
    before = ask(store)
    (live / TABLE).chmod(0o400)
    np.testing.assert_array_equal(ask(store), before)
    os.link(live / TABLE, live.parent / "kept")
    np.testing.assert_array_equal(ask(store), before)
    os.rename(live, live.parent / "old")
    np.testing.assert_array_equal(ask(store), before)
    shutil.rmtree(live.parent / "old")
    (live.parent / "kept").unlink()
    np.testing.assert_array_equal(ask(store), before)


def test_an_engine_says_once_that_its_bundle_was_changed(
    live: Path, toy_batch: Batch, caplog: pytest.LogCaptureFixture
) -> None:
    with Engine.load(live, cache=None, threads=1) as engine, caplog.at_level(logging.WARNING):
        engine.score(toy_batch(40))
        assert engine.stats()["bundle"] == {"path": str(live), "state": "as loaded", "file": ""}
        overwrite(live / TABLE)
        for _ in range(3):
            with pytest.raises(StoreError, match=IN_PLACE):
                engine.score(toy_batch(40))
            assert engine.stats()["bundle"] == {"path": str(live), "state": "changed", "file": TABLE}
        assert "pepnet_bundle_changed 1" in engine.metrics()
    said = [record.getMessage() for record in caplog.records]
    assert len([text for text in said if "changed in place" in text]) == 2  # the store's, and the statistics'


@pytest.mark.parametrize("call", ["score", "score_features", "score_dense"])
def test_an_engine_that_only_scores_says_it_too(
    live: Path, toy_batch: Batch, call: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> list[str]:  # by the engine: rows that are not in the cache are asked of the store, which says it too
        return [record.getMessage() for record in caplog.records if record.name == "pepnet_infer"]

    with contextlib.ExitStack() as engines:
        engine = engines.enter_context(Engine.load(live, threads=1))
        monkeypatch.setattr(bundle_watch, "EVERY_S", 0.0)
        watchful = engines.enter_context(Engine.load(live, threads=1))  # looks at every call
        engines.enter_context(caplog.at_level(logging.WARNING))
        inputs = engine.bundle.config.inputs
        widths = (inputs.general, inputs.domain, inputs.prior)
        given = {
            "score": (toy_batch(3),),
            "score_features": (engine.encode(toy_batch(3)),),
            "score_dense": tuple(np.zeros((1, width), np.float32) for width in widths),
        }[call]
        overwrite(live / TABLE)
        getattr(engine, call)(*given)
        assert said() == []  # not due: what a call does not need is not looked at by each
        for _ in range(3):
            getattr(watchful, call)(*given)
    assert said() == [f"{live}: {TABLE} was changed in place; replace a bundle that is served by rename"]


def test_rows_in_the_cache_are_those_of_the_loaded_version(live: Path, toy_batch: Batch) -> None:
    with Engine.load(live, cache=CacheConfig(on_fault="raise"), threads=1) as engine:
        before = engine.score(toy_batch(40)).values
        overwrite(live / TABLE)
        np.testing.assert_array_equal(engine.score(toy_batch(40)).values, before)


def test_a_bundle_replaced_by_rename_goes_on_serving(live: Path, toy_batch: Batch) -> None:
    with Engine.load(live, cache=None, threads=1) as engine:
        before = engine.score(toy_batch(40)).values
        shutil.copytree(live, live.parent / "new")
        overwrite(live.parent / "new" / TABLE)
        os.rename(live, live.parent / "old")
        os.rename(live.parent / "new", live)
        np.testing.assert_array_equal(engine.score(toy_batch(40)).values, before)
        assert engine.stats()["bundle"]["state"] == "replaced"
        with pytest.raises(BundleError, match=r"got one of which .* was replaced meanwhile"):
            engine.bundle.dense()
        shutil.rmtree(live)
        state = engine.stats()["bundle"]
        assert state["state"] == "replaced"
        assert state["file"] in engine.bundle.files  # the name of one, and no message


def test_a_bundle_that_is_changed_while_it_is_opened_is_refused(live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pepnet_infer.bundle import bundle as module

    def check_payload(*arguments: Any, **named: Any) -> Any:
        found = original(*arguments, **named)
        overwrite(live / "dense.safetensors")
        return found

    original = module.check_payload
    monkeypatch.setattr(module, "check_payload", check_payload)
    with pytest.raises(BundleError, match=r"got one of which dense\.safetensors was changed meanwhile"):
        Bundle.open(live)


def test_a_file_that_is_cut_while_it_is_read_is_refused(live: Path) -> None:
    file = MappedFile(live / TABLE)
    os.truncate(live / TABLE, 16)
    assert file.array("rows").sum() is not None  # zeros, or what was in the page that is left
    with pytest.raises(BundleError, match=IN_PLACE):
        file.check(error=BundleError)
    with pytest.raises(BundleError):
        open_table(live / TABLE)


OTHER_FAULTS = """
import ctypes, faulthandler, os, sys, tempfile
from pepnet_infer._kernels import FileMap
what = sys.argv[1]
mine = FileMap(os.open(sys.executable, os.O_RDONLY))
if what == "handler":
    faulthandler.enable()
if what == "sent":
    os.kill(os.getpid(), 7)
import mmap
with tempfile.NamedTemporaryFile() as file:
    file.write(bytes(8192))
    file.flush()
    theirs = mmap.mmap(file.fileno(), 8192, access=mmap.ACCESS_READ)
    os.truncate(file.name, 0)
    theirs[5000]
"""


@pytest.mark.parametrize("what", ["map", "handler", "sent"])
def test_other_bus_errors_end_the_process_as_before(what: str) -> None:
    done = subprocess.run([sys.executable, "-c", OTHER_FAULTS, what], capture_output=True, timeout=60)
    assert done.returncode == -7, done.stderr
    assert (b"Fatal Python error: Bus error" in done.stderr) == (what == "handler")


def test_a_signal_that_is_not_ours_ends_the_process_whoever_else_handles_it(tmp_path: Path) -> None:
    """faulthandler comes between two maps: each would pass the signal on to the other."""
    (tmp_path / "file").write_bytes(b"x")
    code = """
import faulthandler, os, signal, sys
from pepnet_infer import _kernels
file = os.open(sys.argv[1], os.O_RDONLY)
maps = [_kernels.FileMap(file)]
faulthandler.enable()
maps.append(_kernels.FileMap(file))
os.kill(os.getpid(), signal.SIGBUS)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGBUS
    assert done.stderr.count("Fatal Python error: Bus error") == 1


def test_a_manifest_of_another_bundle_than_the_files_is_refused(live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its sizes alone the next bundle is the one whose manifest was read just before it came."""
    from pepnet_infer.bundle import bundle as module

    def read_document(root: Path, name: str) -> Any:
        found = original(root, name)
        if name == "manifest.json":
            shutil.copytree(live, live.parent / "new")
            overwrite(live.parent / "new" / TABLE)
            os.rename(live, live.parent / "old")
            os.rename(live.parent / "new", live)
        return found

    original = module.read_document
    monkeypatch.setattr(module, "read_document", read_document)
    with pytest.raises(BundleError, match=r"got one of which manifest\.json was replaced meanwhile"):
        Bundle.open(live, check="sizes")
