"""Files and folders of a log in a directory, as they are made and removed, and what is said when that fails."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from pepnet_infer.errors import UpdateError


def link(source: str, target: str) -> None:
    """Gives a file that nobody changes any more a second name, or copies it."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def remove(path: Path) -> None:
    """Removes what is there, if anything is, whatever it is: somebody else's file may have an entry's name."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def failures(path: Path) -> Iterator[None]:
    """Raises UpdateError "transport" for what the file system refuses."""
    try:
        yield
    except OSError as error:
        raise UpdateError("transport", f"{path}: cannot be used: {error}") from error
