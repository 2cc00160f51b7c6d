"""Deltas that are cut, flipped, replaced while they are read, or put into a log that is no log."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sync_deltas import BASE, DENSE, USER, VERSION, VIDEO, make, reasons, rows_of, same_content

from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.errors import UpdateError
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.storage import document, listing
from pepnet_infer.sync import delta as delta_module
from pepnet_infer.sync.delta import Delta, DeltaHead, write_delta
from pepnet_infer.sync.logs.directory import DirectoryLog
from pepnet_infer.sync.logs.transport import Progress

pytestmark = pytest.mark.hostile


def opened(check: Callable[[Path], Delta], root: Path) -> tuple[Delta | None, str]:
    """Returns the delta, or why it was refused."""
    try:
        return check(root), ""
    except UpdateError as error:
        return None, error.reason


@pytest.mark.parametrize("name", ["manifest.json", DENSE, "dense.onnx", USER, VIDEO])
def test_a_file_cut_anywhere_is_refused(name: str, root: Path, check: Callable[[Path], Delta]) -> None:
    whole = (root / name).read_bytes()
    cuts = {0, 1, 7, 8, len(whole) // 2, len(whole) - 3, *np.random.default_rng(1).integers(0, len(whole) - 3, 12)}
    for cut in sorted(int(cut) for cut in cuts):
        (root / name).write_bytes(whole[:cut])
        with pytest.raises(UpdateError) as error:
            check(root)
        assert error.value.reason == ("format" if name == "manifest.json" else "files")
    (root / name).write_bytes(whole)
    check(root)


@pytest.mark.parametrize("name", ["manifest.json", DENSE, "dense.onnx", USER, VIDEO])
def test_a_flipped_bit_is_refused_or_says_nothing(
    name: str, root: Path, check: Callable[[Path], Delta], toy_schema: FeatureSchema
) -> None:
    """A manifest has no hash of its own: a bit of its versions, its pass or its time makes another that is as good."""
    whole, rng = (root / name).read_bytes(), np.random.default_rng(2)
    good, passed = check(root), []
    for offset, bit in zip(rng.integers(0, len(whole), 200), rng.integers(0, 8, 200), strict=True):
        torn = bytearray(whole)
        torn[offset] ^= 1 << int(bit)
        (root / name).write_bytes(torn)
        found, reason = opened(check, root)
        if found is not None:
            passed.append((found, bytes(torn)))
        else:
            assert reason in reasons()
    assert name == "manifest.json" or passed == []
    for found, torn in passed:
        assert same_content(found, good)
        changed = json.loads(torn)
        for key in ("files", "schema_hash", "format", "format_version"):
            assert changed[key] == json.loads(whole)[key]


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("step", range(5))
def test_a_directory_replaced_while_it_is_read_is_refused(
    step: int,
    gone: bool,
    root: Path,
    tmp_path: Path,
    toy_checkpoint: Checkpoint,
    check: Callable[[Path], Delta],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the reading of each file another delta, as good as this one, takes its place, or nothing does."""
    other = make(tmp_path / "other", toy_checkpoint, seed=1)
    steps = 0
    open_regular = listing.open_regular

    def open_late(path: Path) -> Any:
        nonlocal steps
        if steps == step:
            os.rename(root, tmp_path / "before")
            if not gone:
                os.rename(other, root)
        steps += 1
        return open_regular(path)

    for module in (document, listing):
        monkeypatch.setattr(module, "open_regular", open_late)
    found, reason = opened(check, root)
    if found is None:
        assert reason == "race"
    else:  # all of it was still to be read, or what was is the same in both
        assert not gone
        monkeypatch.undo()
        assert any(same_content(found, check(path)) for path in (tmp_path / "before", root))
    assert steps > step


def test_a_file_replaced_after_it_was_hashed_changes_nothing(
    root: Path, check: Callable[[Path], Delta], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = check(root)
    check_dense = delta_module.check_dense
    files = [path for path in root.rglob("*") if path.is_file()]

    def check_late(*args: Any, **more: Any) -> None:
        for path in files:
            path.write_bytes(bytes(path.stat().st_size))
        check_dense(*args, **more)

    monkeypatch.setattr(delta_module, "check_dense", check_late)
    assert same_content(check(root), good)


def test_a_delta_that_cannot_be_is_not_written(toy_checkpoint: Checkpoint, tmp_path: Path) -> None:
    schema = toy_checkpoint.schema
    head, rows = DeltaHead(BASE, VERSION, 3, 1e9, schema.hash), rows_of(schema, "user")
    bad = replace(rows, versions=rows.versions + np.uint64(1))
    for reason, said, arguments in (
        ("version", "expected 8 to 9", (head, {"user": bad})),
        ("version", "expected a version above", (DeltaHead(9, 9, 0, 1e9, schema.hash), {})),
        ("format", "a finite time", (DeltaHead(7, 9, 0, float("nan"), schema.hash), {})),
        ("format", "a finite time", (DeltaHead(7, 9, 0, 1e300, schema.hash), {})),
        ("format", "a pass from 0", (DeltaHead(7, 9, -1, 1e9, schema.hash), {})),
        ("dense", "expected dense weights beside the graph", (head, {}, None, b"graph")),
    ):
        with pytest.raises(UpdateError, match=said) as error:
            write_delta(tmp_path / "bad", *arguments)  # type: ignore[arg-type]
        assert error.value.reason == reason
        assert list(tmp_path.iterdir()) == []


def test_a_log_in_a_file(tmp_path: Path, root: Path) -> None:
    (tmp_path / "log").write_text("not a folder")
    log = DirectoryLog(tmp_path / "log")
    with pytest.raises(UpdateError, match=r"log: expected a log, got a file") as error:
        log.read("")
    assert error.value.reason == "missing"
    for work in (lambda: log.append(root), lambda: DirectoryLog(log.path, create=True)):
        with pytest.raises(UpdateError, match=r"log.*: cannot be used: .*(Not a directory|File exists)") as error:
            work()
        assert error.value.reason == "transport"
    (tmp_path / "log").unlink()
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "deltas").write_text("not a folder")
    with pytest.raises(UpdateError, match=r"cannot be used: .*(Not a directory|File exists)"):
        log.append(root)
    with pytest.raises(UpdateError, match=r"cannot be used: .*Not a directory"):
        log.read("")


def test_a_log_does_not_follow_links(tmp_path: Path, root: Path, check: Callable[[Path], Delta]) -> None:
    (root / USER).unlink()
    (root / USER).symlink_to(tmp_path / "secret")
    log = DirectoryLog(tmp_path / "log", create=True)
    log.append(root)
    [entry] = log.read("")
    with pytest.raises(UpdateError, match="expected a regular file, got a symbolic link"):
        check(entry.path)
    assert (entry.path / USER).is_symlink()


def test_what_is_not_an_entry_is_left_alone(tmp_path: Path, root: Path) -> None:
    log = DirectoryLog(tmp_path / "log", create=True)
    first = log.append(root)
    for name in (".nfs0001", "notes", "7", first[:-1], f"{first}.bak", "٠" * 20):
        (log.path / "deltas" / name).write_text("")
    (log.path / "deltas" / f".{int(first) + 1:020d}").mkdir()  # of a writer that died
    again = shutil.copytree(root, tmp_path / "again")
    document = json.loads((root / "manifest.json").read_text())
    document |= {"base_version": VERSION, "model_version": VERSION + 1}
    (again / "manifest.json").write_text(json.dumps(document))
    second = log.append(again)
    assert [entry.position for entry in log.read("")] == [first, second]
    assert (log.path / "deltas" / ".nfs0001").exists()
    assert not (log.path / "deltas" / f".{int(first) + 1:020d}").exists()


def test_progress_that_is_none_of_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = DirectoryLog(tmp_path / "log", create=True)
    log.acknowledge("good", Progress("", 3, 5.0))
    position = '{"position": "", "model_version": 1, "at": %s}'
    contents = ["", "[]", "7", "{}", '{"position": 7, "model_version": 1, "at": 1}', "[" * 100_000, "\xff", "[0" * 9000]
    for content in [*contents, *(position % at for at in ("NaN", "1e300", "null"))]:
        (log.path / "followers" / "f.json").write_text(content)
        assert log.progress() == {"good": Progress("", 3, 5.0)}
        assert "f.json: a follower's progress: " in caplog.text
        caplog.clear()
    (log.path / "followers" / "f.json").unlink()
    os.mkfifo(log.path / "followers" / "f.json")
    (log.path / "followers" / "g.json").mkdir()
    assert log.progress() == {"good": Progress("", 3, 5.0)}
