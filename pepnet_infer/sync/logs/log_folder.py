"""The folder of a log: which log it holds, and how what is in it is made and removed.

    log.json    {"format": "pepnet-log", "format_version": 1, "id": 32 hex digits}

An empty folder is what a disk that is not mounted looks like; a mistyped path is a folder that is not there. Neither is
a log without entries.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.storage.atomic import write_file
from pepnet_infer.storage.document import document_bytes, read_document
from pepnet_infer.validation import convert

FILE = "log.json"
_BEGINS = "A log begins with what is published first, or with DirectoryLog(path, create=True)."


class _Log(msgspec.Struct, frozen=True):
    """What `log.json` holds. Another format is another number; a key more is not."""

    format: Literal["pepnet-log"]
    format_version: Literal[1]
    id: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]


def find_log(path: Path) -> str:
    """Returns the identity of the log in a directory.

    Raises UpdateError "missing" where there is none, "transport" where that cannot be told, "log" for a newer format.
    """
    try:
        os.lstat(path / FILE)
        document = read_document(path, FILE)
    except FileNotFoundError as error:
        got = f"a folder without {FILE}; is its disk mounted?" if os.path.exists(path) else "nothing there."
        raise UpdateError("missing", f"{path}: expected a log, got {got} {_BEGINS}") from error
    except NotADirectoryError as error:
        raise UpdateError("missing", f"{path}: expected a log, got a file, or one on the way there") from error
    except OSError as error:
        raise UpdateError("transport", f"{path}: expected a log, got a folder that cannot be read: {error}") from error
    except BundleError as error:
        reason = "transport" if isinstance(error.__cause__, OSError) else "log"
        raise UpdateError.of(error, reason=reason) from error
    log: _Log = convert(str(path / FILE), document, _Log, partial(UpdateError, "log"))
    return log.id


def begin_log(path: Path) -> None:
    """Makes a directory that is there a log. For who holds the writers' lock."""
    log = _Log("pepnet-log", 1, secrets.token_hex(16))
    write_file(path / FILE, document_bytes(msgspec.to_builtins(log)))


def link(source: str, target: str) -> None:
    """Gives a file that nobody changes any more a second name, or copies it."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def remove(path: Path) -> None:
    """Removes what is there, if anything is, whatever it is: somebody else's file may have an entry's name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def failures(path: Path) -> Iterator[None]:
    """Raises UpdateError "transport" for what the file system refuses."""
    try:
        yield
    except OSError as error:
        raise UpdateError("transport", f"{path}: cannot be used: {error}") from error
