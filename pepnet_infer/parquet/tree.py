"""Input files below folders and behind patterns. Links are followed, and no folder is entered twice."""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from pepnet_infer.errors import PepnetError, readable

SUFFIXES = (".parquet", ".parq", ".pq")

_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Tree:
    """What one input leads to.

    `entered`: real path → path as given, of the folders that another run would look into again.
    """

    def __init__(self) -> None:
        self.entered: dict[str, Path] = {}

    def enter(self, folder: Path) -> str:
        """Notes a folder and returns its real path."""
        real = os.path.realpath(folder)
        self.entered.setdefault(real, folder)
        return real

    def files(self, top: Path) -> Iterator[Path]:
        """Yields the parquet files below `top`. Names that start with `.` or `_` are left out, as Hive and Spark do.

        Raises PepnetError for a pipe, device or socket under a parquet file's name, for a link that leads nowhere, and
        for a folder that cannot be read.
        """
        for folder, found in self._folders(top):
            for entry in found:
                if entry.name.endswith(SUFFIXES) and not _is_folder(entry):
                    yield regular(folder / entry.name)

    def matches(self, folder: Path, parts: Sequence[str]) -> Iterator[Path]:
        """Yields what the components of a pattern match below `folder`; `**` crosses folders.

        Names that start with `.` or `_` match only what begins like that itself.
        """
        waiting = [(folder, tuple(parts))]
        seen: set[tuple[Path, int]] = set()  # `**` behind `**` leads to a folder in many ways
        while waiting:
            folder, left = waiting.pop()
            if (folder, len(left)) in seen:
                continue
            seen.add((folder, len(left)))
            if not left:
                yield folder
                continue
            part, rest = left[0], left[1:]
            if part == "**":
                for below, found in self._folders(folder):
                    if rest:
                        waiting.append((below, rest))
                    else:
                        yield from (below / entry.name for entry in found if not _is_folder(entry))
                continue
            if not glob.has_magic(part):  # by its name alone: a folder on the way may be closed to listing
                if _is_there(folder / part):
                    waiting.append((folder / part, rest))
                continue
            for entry in _entries(folder):
                hidden = entry.name.startswith((".", "_")) and not part.startswith(entry.name[0])
                if hidden or not fnmatch.fnmatchcase(entry.name, part) or (rest and not _is_folder(entry)):
                    continue
                if rest and entry.is_symlink():
                    self.enter(folder / entry.name)
                waiting.append((folder / entry.name, rest))

    def _folders(self, top: Path) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
        """Yields every folder from `top` on with what is in it. Raises PepnetError for one that a link leads to again.

        Such a folder may lie above its link, which has no end, or its files would be scored twice.
        """
        seen: dict[str, Path] = {}
        waiting = [(top, self.enter(top))]
        while waiting:
            folder, real = waiting.pop()
            if real in seen:
                raise PepnetError(f"{folder}: expected every folder once, got a link to {seen[real]}")
            seen[real] = folder
            found = [entry for entry in _entries(folder) if not entry.name.startswith((".", "_"))]
            yield folder, found
            for entry in reversed(found):
                if _is_folder(entry):
                    below = folder / entry.name
                    waiting.append((below, self.enter(below) if entry.is_symlink() else os.path.join(real, entry.name)))


def regular(path: Path) -> Path:
    """Returns `path`. Raises PepnetError unless it is a regular file, or a link to one."""
    try:  # not `readable`: it takes ten times as long as a look at a file, and this is done of each
        mode = os.stat(path).st_mode
    except OSError as error:
        raise PepnetError(f"expected a file, got: {error.strerror}", file=path) from error
    if not stat.S_ISREG(mode):
        raise PepnetError(f"{path}: expected a file, got {_SPECIAL.get(stat.S_IFMT(mode), 'a folder')}")
    return path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with readable(folder, "a readable folder"), os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)


def _is_there(path: Path) -> bool:
    with readable(path, "a readable folder"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(path)
        return True
    return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A link that leads nowhere may have been a partition's folder: to pass it by would leave rows out without a word.
    try:
        return stat.S_ISDIR(entry.stat().st_mode) if entry.is_symlink() else entry.is_dir()
    except OSError as error:
        raise PepnetError(f"expected a link to a file or folder, got: {error.strerror}", file=entry.path) from error
