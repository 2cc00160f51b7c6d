"""Directories that appear whole or not at all: written beside their target, fsynced, renamed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from pepnet_infer.errors import BundleError
from pepnet_infer.storage.local_path import refuse_url

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h


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
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        staging, lock = _make_staging(target)
    except OSError as error:
        raise _failure(target, error) from error
    try:
        yield staging
        sync_tree(staging)
        refuse_occupied(target, document, overwrite)
        _put_in_place(staging, target, overwrite)
    except OSError as error:
        raise _failure(target, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # gone already when all went well
        os.close(lock)


def refuse_occupied(target: Path, document: str, overwrite: bool) -> None:
    """Raises BundleError where `new_directory` would: for those who work for minutes before they write."""
    refuse_url(target, "a local directory", BundleError)
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise BundleError(f"{target}: expected a directory or nothing there, got a file or link")
    if not any(target.iterdir()):
        return
    if not (target / document).is_file():
        raise BundleError(f"{target}: expected nothing there or a directory with {document}, got other files")
    if not overwrite:
        raise BundleError(f"{target}: expected nothing there, got an existing {document}; pass overwrite to replace it")


def sync_tree(root: Path) -> None:
    """Forces every file and directory below `root`, and `root` itself, to the disk."""
    for folder, _, names in os.walk(root):
        for name in [*names, "."]:
            handle = os.open(os.path.join(folder, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def sync_folder(folder: Path) -> None:
    """Forces the names in a directory to the disk: a rename there is done only then."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, hex. A symlink is not followed."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put_in_place(staging: Path, target: Path, overwrite: bool) -> None:
    if overwrite and target.is_dir() and any(target.iterdir()):
        _exchange(staging, target)
    else:
        os.rename(staging, target)  # fails on a directory that somebody has filled since we looked
    sync_folder(target.parent)


def _exchange(staging: Path, target: Path) -> None:
    """Swaps two directories in one step; on file systems without it, there is an instant with nothing at `target`."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(staging), os.fsencode(target)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.ENOSYS, errno.EINVAL):
        raise OSError(code, os.strerror(code), str(target))
    old = staging.with_name(f"{staging.name}.old")
    os.rename(target, old)
    os.rename(staging, target)
    os.rename(old, staging)


def _make_staging(target: Path) -> tuple[Path, int]:
    """Returns a new hidden sibling and the lock on it: held while we live, it tells abandoned from busy."""
    while True:
        staging = target.with_name(f".{target.name}.tmp-{secrets.token_hex(4)}")
        staging.mkdir()
        try:
            lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # another process took it for abandoned before it was locked
        fcntl.flock(lock, fcntl.LOCK_EX)
        if staging.is_dir():
            return staging, lock
        os.close(lock)


def _remove_abandoned(target: Path) -> None:
    for path in target.parent.glob(f".{glob.escape(target.name)}.tmp-*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # its process has just finished
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process is writing there, or has finished since
        finally:
            os.close(lock)


def _failure(target: Path, error: OSError) -> BundleError:
    return BundleError(f"{target}: cannot write: {error}")
