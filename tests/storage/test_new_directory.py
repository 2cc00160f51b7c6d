"""Directories that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pepnet_infer._kernels import FileLock
from pepnet_infer.errors import BundleError
from pepnet_infer.storage import atomic
from pepnet_infer.storage.atomic import new_directory, new_file, sha256, write_file


def fill(root: Path, text: str) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "a").write_text(text)
    (root / "doc.json").write_text(text)


def fail_inside(target: Path, overwrite: bool) -> None:
    with new_directory(target, "doc.json", overwrite) as root:
        fill(root, "two")
        raise ZeroDivisionError


def content(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}


def test_appears_with_its_files_and_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "b"
    with new_directory(target, "doc.json") as root:
        fill(root, "one")
        assert not target.exists()
        assert root.parent == target.parent, "a rename across file systems would not be atomic"
        made = root.stat().st_ino
    assert target.stat().st_ino == made, "copied, which can be seen half done"
    assert content(target) == {"doc.json": "one", "sub/a": "one"}
    assert os.listdir(target.parent) == ["b"]
    assert target.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_error_inside_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_inside(tmp_path / "b", overwrite=False)
    assert os.listdir(tmp_path) == []


def test_an_error_inside_leaves_the_old_one(tmp_path: Path) -> None:
    with new_directory(tmp_path / "b", "doc.json") as root:
        fill(root, "one")
    with pytest.raises(ZeroDivisionError):
        fail_inside(tmp_path / "b", overwrite=True)
    assert content(tmp_path / "b") == {"doc.json": "one", "sub/a": "one"}
    assert os.listdir(tmp_path) == ["b"]


def test_what_stands_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "b"
    for text, overwrite in (("one", False), ("two", True)):
        with new_directory(target, "doc.json", overwrite) as root:
            fill(root, text)
            made = root.stat().st_ino
        assert target.stat().st_ino == made
    with (
        pytest.raises(
            BundleError, match=r"b: expected nothing there, got an existing doc\.json; to replace it, pass overwrite"
        ),
        new_directory(target, "doc.json") as root,
    ):
        fill(root, "three")
    assert content(target)["doc.json"] == "two"
    assert os.listdir(tmp_path) == ["b"]


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with new_directory(tmp_path / "b", "doc.json") as root:
        fill(root, "one")
    assert content(tmp_path / "b")["doc.json"] == "one"


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_peoples_files_are_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    wanted = r"expected nothing there or a directory with doc\.json, got other files"
    with pytest.raises(BundleError, match=wanted), new_directory(tmp_path, "doc.json", overwrite):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_file_or_link_at_the_target_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("file", "link"):
        with (
            pytest.raises(BundleError, match=f"{name}: expected a directory or nothing there, got a file or link"),
            new_directory(tmp_path / name, "doc.json", overwrite=True),
        ):
            pass


def test_a_parent_that_is_a_file_is_a_bundle_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BundleError, match=r"file/b: cannot write: \[Errno \d+\] (Not a directory|File exists)"),
        new_directory(tmp_path / "file" / "b", "doc.json"),
    ):
        pass


def test_abandoned_siblings_go_and_busy_ones_stay(tmp_path: Path) -> None:
    abandoned, busy, other = tmp_path / ".b.tmp-1", tmp_path / ".b.tmp-2", tmp_path / ".c.tmp-1"
    for path in (abandoned, busy, other):
        path.mkdir()
        (path / "half").write_text("written")
    lock = os.open(busy, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with new_directory(tmp_path / "b", "doc.json") as root:
            fill(root, "one")
    finally:
        os.close(lock)
    assert sorted(os.listdir(tmp_path)) == [".b.tmp-2", ".c.tmp-1", "b"]


def test_of_two_writers_at_once_one_wins_whole(tmp_path: Path) -> None:
    both, errors = threading.Barrier(2), []

    def write(text: str) -> None:
        try:
            with new_directory(tmp_path / "b", "doc.json") as root:
                fill(root, text)
                both.wait()
        except BundleError as error:
            errors.append(str(error))

    writers = [threading.Thread(target=write, args=(text,)) for text in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(errors) == 1
    assert re.search(r"got an existing doc\.json|cannot write: .*not empty", errors[0])
    assert set(content(tmp_path / "b").values()) in ({"one"}, {"two"})
    assert os.listdir(tmp_path) == ["b"]


def test_what_came_after_the_last_look_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "refuse_occupied", lambda *_: None)

    def write() -> None:
        with new_directory(tmp_path / "b", "doc.json") as root:
            fill(root, "two")
            (tmp_path / "b").mkdir()
            fill(tmp_path / "b", "one")

    with pytest.raises(BundleError, match=r"cannot write: .*not empty"):
        write()
    assert set(content(tmp_path / "b").values()) == {"one"}
    assert os.listdir(tmp_path) == ["b"]


def test_hash_of_a_file_but_not_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "l").symlink_to(tmp_path / "a")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    with pytest.raises(OSError, match="symbolic links"):
        sha256(tmp_path / "l")


def test_a_staging_that_another_writer_removes_at_once_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not locked yet, so that it looks like one left behind."""
    taken = []

    def lock_late(path: Path, *args: Any, **kwargs: Any) -> FileLock:
        if not taken:
            taken.append(path)
            os.rmdir(path)
        return FileLock(path, *args, **kwargs)

    monkeypatch.setattr(atomic, "FileLock", lock_late)
    with new_directory(tmp_path / "b", "doc.json") as root:
        fill(root, "one")
    assert len(taken) == 1
    assert content(tmp_path / "b") == {"doc.json": "one", "sub/a": "one"}


def test_a_writer_that_finishes_while_it_is_looked_at_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / ".b.tmp-00000000"
    other.mkdir()
    finished = []

    def lock_late(path: Path, *args: Any, **kwargs: Any) -> FileLock:
        if path == other:
            finished.append(os.rename(other, tmp_path / "finished"))
        return FileLock(path, *args, **kwargs)

    monkeypatch.setattr(atomic, "FileLock", lock_late)
    with new_directory(tmp_path / "b", "doc.json") as root:
        fill(root, "one")
    assert finished
    assert (tmp_path / "finished").is_dir()


def test_a_directory_that_cannot_be_renamed_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an overlay refuses it for what lies on its lower layer, such as a bundle that came with an image."""
    target = tmp_path / "b"
    with new_directory(target, "doc.json") as root:
        fill(root, "one")
    lower = target.stat().st_ino
    rename = os.rename

    def refuse(source: Path, to: Path) -> None:
        if os.stat(source).st_ino == lower:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        rename(source, to)

    libc = SimpleNamespace(renameat2=lambda *_: -1)
    monkeypatch.setattr(atomic, "ctypes", SimpleNamespace(CDLL=lambda *_, **__: libc, get_errno=lambda: errno.EXDEV))
    monkeypatch.setattr(os, "rename", refuse)
    with new_directory(target, "doc.json", overwrite=True) as root:
        fill(root, "two")
    assert content(target) == {"doc.json": "two", "sub/a": "two"}
    assert os.listdir(tmp_path) == ["b"]


def write_half(target: Path) -> None:
    with new_file(target) as file:
        file.write(b"half")
        raise ZeroDivisionError


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "f"
    write_file(target, b"one")
    with pytest.raises(ZeroDivisionError):
        write_half(target)
    assert target.read_bytes() == b"one"
    (tmp_path / ".f.tmp-0badcafe").write_bytes(b"left by a writer that was killed")
    with new_file(target) as file:
        file.write(b"two")
        assert target.read_bytes() == b"one"
        write_file(target, b"another writer's")
    assert target.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["f"]
