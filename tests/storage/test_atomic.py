"""How files and folders with hidden names of their own are put in place, and that nobody else does it."""

from __future__ import annotations

import ast
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pepnet_infer
from pepnet_infer._kernels import FileLock
from pepnet_infer.storage import atomic
from pepnet_infer.storage.atomic import OWN_FILE, check_own, make_folder, move_all, put_directory, put_file

_OF_OS = {"rename", "renames", "replace", "fsync", "fdatasync", "sync", "renameat2"}


def _puts(tree: ast.AST) -> Iterator[str]:
    """Yields every call that gives a file another name, or waits for the disk."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module="os", names=names):
                yield from (f"from os import {one.name}" for one in names if one.name in _OF_OS)
            case ast.Attribute(value=ast.Name(id="os"), attr=name) if name in _OF_OS:
                yield f"os.{name}"
            case ast.Attribute(value=ast.Name(id="shutil"), attr="move"):
                yield "shutil.move"
            case ast.Call(func=ast.Attribute(attr="rename"), args=[_], keywords=[]):
                yield "Path.rename"
            case ast.Call(func=ast.Attribute(attr="replace"), args=[_], keywords=[]):  # that of text has two
                yield "Path.replace"


def test_only_the_storage_renames_files_and_waits_for_the_disk() -> None:
    root = Path(pepnet_infer.__file__).parent
    found = {
        path.relative_to(root).as_posix(): sorted(set(calls))
        for path in root.rglob("*.py")
        if (calls := list(_puts(ast.parse(path.read_text()))))
    }
    assert found == {"storage/atomic.py": ["os.fsync", "os.rename", "os.replace"]}


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, _noted(done, name, getattr(os, name)))
    hidden, target = tmp_path / ".hidden", tmp_path / "target"
    target.write_text("old")
    handle = os.open(hidden, os.O_RDWR | os.O_CREAT)
    os.write(handle, b"new")

    def check(path: Path) -> None:
        assert path.read_text() == "old"
        done.append("check")

    put_file(handle, hidden, target, check)
    os.close(handle)
    assert done == ["fsync", "check", "replace", "fsync"]
    assert (target.read_text(), os.listdir(tmp_path)) == ("new", ["target"])


def _noted(done: list[str], name: str, work: object) -> object:
    def call(*args: object) -> object:
        done.append(name)
        return work(*args)  # type: ignore[operator]

    return call


def test_a_directory_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    hidden = tmp_path / ".hidden"
    (hidden / "sub").mkdir(parents=True)
    (hidden / "sub" / "a").write_text("one")
    for name in ("fsync", "rename"):
        monkeypatch.setattr(os, name, _noted(done, name, getattr(os, name)))
    put_directory(hidden, tmp_path / "target")
    assert done == ["fsync", "fsync", "fsync", "rename", "fsync"]  # the file, two folders, and where the name is
    assert (tmp_path / "target" / "sub" / "a").read_text() == "one"
    (tmp_path / "other").mkdir()
    with pytest.raises(OSError, match=r"Directory not empty|File exists"):
        put_directory(tmp_path / "other", tmp_path / "target")


def test_names_that_move_reach_the_disk_once_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Path] = []
    monkeypatch.setattr(atomic, "sync_folder", done.append)
    for name in ("one", "two"):
        make_folder(tmp_path / "from")
        (tmp_path / "from" / name).write_text(name)
    make_folder(tmp_path / "to")
    done.clear()
    move_all([(tmp_path / "from" / name, tmp_path / "to" / name) for name in ("one", "two")])
    assert done == [tmp_path / "from", tmp_path / "to"]
    assert sorted(os.listdir(tmp_path / "to")) == ["one", "two"]


def test_folders_that_are_made_reach_the_disk_with_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Path] = []
    monkeypatch.setattr(atomic, "sync_folder", done.append)
    make_folder(tmp_path / "a" / "b")
    assert done == [tmp_path, tmp_path / "a"]
    make_folder(tmp_path / "a" / "b")
    assert len(done) == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        make_folder(tmp_path / "file" / "c")


def test_a_hidden_file_has_one_writer_and_what_is_no_file_of_its_own_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ".hidden"
    one, other = (FileLock(path, OWN_FILE, wait=False) for _ in range(2))
    with one as handle:
        check_own(handle, path)
        with pytest.raises(BlockingIOError, match=r"\.hidden"), other:
            pass
    with other as handle:  # a lock ends with its writer
        os.link(path, tmp_path / "second")
        with pytest.raises(FileExistsError, match="no file of its own"):
            check_own(handle, path)
    path.unlink()
    path.symlink_to(tmp_path / "second")
    with pytest.raises(OSError, match="symbolic links"), one:
        pass


@pytest.mark.parametrize("content", ["left over", ""])
def test_a_fresh_lock_is_on_a_new_file_where_an_old_one_is(content: str, tmp_path: Path) -> None:
    path, second = tmp_path / ".hidden", tmp_path / "second"
    one, other = (FileLock(path, OWN_FILE, wait=False, fresh=True) for _ in range(2))
    path.write_text(content)
    with path.open() as left, one as handle:
        assert not os.path.samestat(os.fstat(left.fileno()), os.fstat(handle))
        assert os.fstat(handle).st_size == 0
        path.write_text("somebody is at it")
        with pytest.raises(BlockingIOError), other:
            pass
        assert path.read_text() == "somebody is at it"
    os.link(path, second)
    with other as handle, pytest.raises(FileExistsError, match="no file of its own"):
        check_own(handle, path)
    assert path.read_text() == "somebody is at it"


def test_a_lock_is_on_what_has_the_name(tmp_path: Path) -> None:
    """Who waits for a file that is replaced meanwhile gets the new one."""
    path, waiting = tmp_path / "lock", threading.Event()
    lock = FileLock(path, os.O_RDWR | os.O_CREAT)
    with ThreadPoolExecutor(1) as another, lock as handle:

        def wait() -> bool:
            waiting.set()
            with FileLock(path, os.O_RDWR | os.O_CREAT) as mine:
                return os.path.samestat(os.fstat(mine), os.stat(path))

        got = another.submit(wait)
        assert waiting.wait(60)
        path.unlink()
        path.touch()
        assert not os.path.samestat(os.fstat(handle), os.stat(path))
        lock.__exit__()
        assert got.result(60)
    with lock, pytest.raises(ValueError, match="expected a lock that is not held"), lock:
        pass
    with (
        pytest.raises(FileNotFoundError, match=f"directory: '{tmp_path}/nowhere/x'"),
        FileLock(tmp_path / "nowhere" / "x", os.O_RDONLY),
    ):
        pass
