"""Files and directories that appear whole or not at all: written beside their target, fsynced, renamed.

The one place that renames what was written, and that waits for the disk. What `new_directory` and `new_file` write
stands under a hidden name beside its target, `.NAME.tmp-…`, and is locked while its writer lives: what a killed writer
left is told from what another one is at by that, and removed by the next. Whoever has a hidden name of its own, as one
that is to be found again, ends with `put_file`, `put_directory` or `move_all`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from pepnet_infer._kernels import FileLock
from pepnet_infer.errors import BundleError
from pepnet_infer.storage.local_path import check_local

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
#: Flags of a `FileLock` on a hidden file whose name is fixed, and which has one writer; see `check_own`.
OWN_FILE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW


@contextlib.contextmanager
def new_directory(target: Path, document: str, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty directory to fill; it takes the name `target` when the block ends well, else it is removed.

    What stands at `target` before: an empty directory is replaced; one that holds the file `document` (a bundle's
    manifest.json, say) is replaced with `overwrite`; anything else is refused, so that a wrong path costs nobody
    their files. A process killed inside the block leaves a hidden sibling, which the next run removes.
    Raises BundleError for a target in the way and for anything the file system refuses.
    """
    refuse_occupied(target, document, overwrite)
    target = Path(os.path.abspath(target))
    try:
        make_folder(target.parent)
        _remove_abandoned(target)
        staging, lock = _make_staging(target)
    except OSError as error:
        raise BundleError(f"cannot write: {error}", file=target) from error
    try:
        yield staging
        sync_tree(staging)
        refuse_occupied(target, document, overwrite)
        if overwrite and target.is_dir() and any(target.iterdir()):
            _exchange(staging, target)
            sync_folder(target.parent)
        else:
            move_all([(staging, target)])  # fails on a directory that somebody has filled since we looked
    except OSError as error:
        raise BundleError(f"cannot write: {error}", file=target) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # gone already when all went well
        lock.__exit__()


@contextlib.contextmanager
def new_file(target: Path, check: Callable[[Path], object] | None = None) -> Iterator[BinaryIO]:
    """Yields a file to write; it takes the name `target`, and is on the disk, when the block ends well.

    Else it is removed, and what was at `target` stays. Two writers each have a file of their own: the later one to end
    is what stays. A process killed inside the block leaves a hidden sibling, which the next writer removes. check: is
    called with `target` before and after the block, and raises for what may not be replaced. Raises OSError.
    """
    target = Path(os.path.abspath(target))
    if check is not None:
        check(target)
    _remove_abandoned(target)
    path = _hidden(target)
    with FileLock(path, os.O_RDWR | os.O_CREAT | os.O_EXCL):
        try:
            # Opened again for what is written: of the locked one a forked child closes its copy.
            with open(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "wb") as file:
                yield file
                file.flush()
                put_file(file.fileno(), path, target, check)
        finally:
            path.unlink(missing_ok=True)  # has the other name when all went well


def put_file(handle: int, path: Path, target: Path, check: Callable[[Path], object] | None = None) -> None:
    """Forces what was written to `handle`, the file `path`, to the disk, and then gives it the name `target` there.

    What was at `target` is replaced. check: is called with `target` in between, and raises for what may not be
    replaced. Raises OSError.
    """
    os.fsync(handle)
    if check is not None:
        check(target)
    os.replace(path, target)
    sync_folder(target.parent)


def put_directory(path: Path, target: Path) -> None:
    """Forces the directory `path` with all in it to the disk, and then gives it the name `target` there.

    Nothing but an empty directory is replaced. Raises OSError.
    """
    sync_tree(path)
    move_all([(path, target)])


def move_all(moves: Sequence[tuple[Path, Path]]) -> None:
    """Renames each first path to its second, and forces the names to the disk. Raises OSError at the first fault."""
    for path, target in moves:
        os.rename(path, target)
    for folder in dict.fromkeys(path.parent for move in moves for path in move):
        sync_folder(folder)


def write_file(target: Path, data: bytes) -> None:
    """Puts `data` into the file `target`, whole or not at all, and onto the disk. Raises OSError."""
    with new_file(target) as file:
        file.write(data)


def link_or_copy(source: str, target: str) -> None:
    """Gives a file that nobody changes any more a second name, or copies it."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def remove(path: Path) -> None:
    """Removes what is there, if anything is, whatever it is: a folder with all in it, a file, a link itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def refuse_occupied(target: Path, document: str, overwrite: bool) -> None:
    """Raises BundleError where `new_directory` would: for those who work for minutes before they write."""
    check_local(target, "a local directory", BundleError)
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise BundleError("expected a directory or nothing there, got a file or link", file=target)
    if not any(target.iterdir()):
        return
    if not (target / document).is_file():
        raise BundleError(f"expected nothing there or a directory with {document}, got other files", file=target)
    if not overwrite:
        raise BundleError(
            f"expected nothing there, got an existing {document}; to replace it, pass overwrite=True (--overwrite)",
            file=target,
        )


def sync_tree(root: Path) -> None:
    """Forces every file and directory below `root`, and `root` itself, to the disk."""
    for folder, _, names in os.walk(root):
        for name in [*names, "."]:
            _sync(os.path.join(folder, name))


def sync_folder(folder: Path) -> None:
    """Forces the names in a directory to the disk: a rename there is done only then."""
    _sync(folder, os.O_DIRECTORY)


def _sync(path: str | Path, flags: int = 0) -> None:
    handle = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Makes `path` and what is missing above it, on the disk too, so that nothing in it loses its folder in a crash."""
    missing: list[Path] = []
    while not path.is_dir():
        if os.path.lexists(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def check_own(handle: int, path: Path) -> None:
    """Raises FileExistsError where the locked file `path` is no plain file with one name."""
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise FileExistsError(errno.EEXIST, f"{path.name} is there and no file of its own")


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, hex. A symlink is not followed."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _exchange(staging: Path, target: Path) -> None:
    """Swaps two directories in one step; on file systems without it, there is an instant with nothing at `target`."""
    libc, names = ctypes.CDLL(None, use_errno=True), (os.fsencode(staging), os.fsencode(target))
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.ENOSYS, errno.EINVAL, errno.EXDEV):
        raise OSError(code, os.strerror(code), str(target))
    old = staging.with_name(f"{staging.name}.old")
    try:
        os.rename(target, old)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # An overlay does not rename a directory of its lower layer, such as one that came with a container's image.
        # It can be removed, which hides it; what is new is of the upper layer, and can be renamed.
        shutil.rmtree(target)
        os.rename(staging, target)
        return
    os.rename(staging, target)
    os.rename(old, staging)


def _hidden(target: Path) -> Path:
    return target.with_name(f".{target.name}.tmp-{secrets.token_hex(4)}")


def _make_staging(target: Path) -> tuple[Path, FileLock]:
    """Returns a new hidden sibling and the lock on it: held while we live, it tells abandoned from busy."""
    while True:
        staging = _hidden(target)
        staging.mkdir()
        lock = FileLock(staging, os.O_RDONLY | os.O_DIRECTORY)
        try:
            lock.__enter__()
        except FileNotFoundError:
            continue  # another process took it for abandoned before it was locked
        return staging, lock


def _remove_abandoned(target: Path) -> None:
    for path in target.parent.glob(f".{glob.escape(target.name)}.tmp-*"):
        try:
            with FileLock(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, wait=False):
                remove(path)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process is writing there, or has finished since
