"""A directory that is mutated, and brought back to what it was as cheaply as that can be."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fuzz.mutations import TEXTS, Files
from fuzz.target import shown

#: What may stand in the place of a file.
STRANGE = ("link", "link away", "dangling link", "fifo", "socket", "folder", "full folder", "unreadable", "sparse")


@dataclass
class Tree:
    """Files by name, and names at which something else stands."""

    files: Files
    strange: list[tuple[str, str]] = field(default_factory=list)
    how: str = ""  #: what was changed, for people

    def show(self, base: Files) -> str:
        """Returns what differs from the directory that was mutated."""
        lines = [self.how, *(f"{name}: {kind}" for name, kind in self.strange)]
        lines += [f"{name}: {shown(data)}" for name, data in self.files.items() if base.get(name) != data]
        return "\n".join([*lines, *(f"{name}: gone" for name in base if name not in self.files)])


def read_tree(root: Path) -> Files:
    """Returns the files below a directory, by their path from there."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def change_names(random: Random, tree: Tree) -> None:
    """Takes a file away, adds one, or puts something that is no file in its place."""
    name = random.choice(list(tree.files))
    how = random.random()
    if how < 0.2:
        tree.how = f"without {name}"
        del tree.files[name]
    elif how < 0.4:
        tree.how = "one more"
        more = random.choice([text for text in TEXTS if text.isprintable() and Path(text).name and len(text) < 100])
        if ".." not in more and not more.startswith("/"):
            tree.files[more] = tree.files[name]
    elif how < 0.5:
        tree.how = f"{name} is cut"
        tree.files[name] = tree.files[name][: random.randrange(len(tree.files[name]) + 1)]
    else:
        tree.strange.append((name, random.choice(STRANGE)))
        tree.how = "strange"


class Directory:
    """A directory at `root` that holds `base` but for what is put there for one mutant."""

    def __init__(self, root: Path, base: Files) -> None:
        self.root, self.base = root, base
        self._reset()

    @contextlib.contextmanager
    def holding(self, tree: Tree) -> Iterator[Path]:
        """Puts a tree in place, and the base again when the block ends."""
        changed = [name for name, data in tree.files.items() if self.base.get(name) != data]
        gone = [name for name in self.base if name not in tree.files]
        try:
            for name in gone:
                (self.root / name).unlink()
            for name in changed:
                self._write(name, tree.files[name])
            for name, kind in tree.strange:
                self._put(self.root / name, kind)
            yield self.root
        finally:
            if tree.strange or not all(name in self.base for name in changed):
                self._reset()
            else:
                for name in [*changed, *gone]:
                    self._write(name, self.base[name])

    def _reset(self) -> None:
        if self.root.exists():
            for path in self.root.rglob("*"):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o700)
            shutil.rmtree(self.root)
        self.root.mkdir(parents=True)
        for name, data in self.base.items():
            self._write(name, data)

    def _write(self, name: str, data: bytes) -> None:
        path = self.root / name
        with contextlib.suppress(NotADirectoryError, IsADirectoryError, FileExistsError):
            try:
                path.write_bytes(data)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def _put(self, path: Path, kind: str) -> None:
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        try:
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            return  # what stands above it is no folder any more
        if kind == "link":
            beside = self.root.parent / "beside"
            beside.write_bytes(data)
            path.symlink_to(beside)
        elif kind == "link away":
            path.symlink_to("/etc/hostname")
        elif kind == "dangling link":
            path.symlink_to("/nowhere/at/all")
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(os.path.relpath(path))
        elif kind in ("folder", "full folder"):
            path.mkdir()
            if kind == "full folder":
                (path / "inside").write_bytes(data)
        elif kind == "unreadable":
            path.write_bytes(data)
            path.chmod(0)
        else:
            path.write_bytes(data)
            os.truncate(path, 1 << 27)
