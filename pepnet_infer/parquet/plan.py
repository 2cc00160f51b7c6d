"""Which files are scored and where each one's scores go."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pepnet_infer.computed_once import computed_once
from pepnet_infer.errors import PepnetError
from pepnet_infer.parquet.folders import folder_values
from pepnet_infer.parquet.tree import SUFFIXES, Tree, regular
from pepnet_infer.quoting import clip
from pepnet_infer.storage.local_path import check_local

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Job:
    """One input file and its output."""

    source: Path
    relative: Path
    out: Path

    @property
    def target(self) -> Path:
        """The output file."""
        return self.out / self.relative

    @computed_once
    def partitions(self) -> dict[str, str | None]:
        """What the folders above the input say."""
        return folder_values(self.source)

    @computed_once
    def kept(self) -> dict[str, str | None]:
        """What the folders between `out` and the output say."""
        return folder_values(self.relative)

    @computed_once
    def lost(self) -> list[str]:
        """Those of `partitions` that no folder above the output says, so that a reader of `out` would miss them."""
        return [key for key, value in self.partitions.items() if key not in self.kept or self.kept[key] != value]

    def check_inside(self) -> None:
        """Raises PepnetError when the output would lie outside of `out`, where a link in `out` leads."""
        real = os.path.realpath(self.target.parent)
        if not Path(real).is_relative_to(os.path.realpath(self.out)):
            raise PepnetError(f"{self.target}: expected a place inside {self.out}, got {real}, where a link leads")


def plan(inputs: PathLike | Sequence[PathLike], out: PathLike) -> list[Job]:
    """Returns one job per input file, in order of the inputs and then of the path.

    An input is a file, a folder or a glob pattern (`**` crosses folders); see `Tree` for what of these counts. All are
    local. The output keeps the path below the folder, or below the fixed part of the pattern; a single file keeps its
    name. Raises PepnetError for an input that is not there, is no regular file, or is given twice, for two inputs with
    the same output, for an output folder inside an input folder, and for an output that a link puts outside of `out`.
    """
    check_local(out, "a local folder")
    out = Path(out)
    if os.path.lexists(out) and not _is_dir(out):
        got = "a file" if os.path.exists(out) else "a link that leads nowhere"
        raise PepnetError(f"{out}: expected a folder for the output, got {got}")
    several = isinstance(inputs, Iterable) and not isinstance(inputs, (str, bytes, os.PathLike))
    given: list[Any] = list(cast(Iterable[Any], inputs)) if several else [inputs]
    for entry in given:
        check_local(entry, "a local file, folder or pattern")
    if not given:
        raise PepnetError("inputs: expected at least one file, folder or pattern, got none")
    real_out = Path(os.path.realpath(out))
    sources: dict[str, Path] = {}
    jobs: dict[Path, Job] = {}
    for entry in given:
        tree = Tree()
        for path, relative in _expand(os.fspath(entry), tree):
            real = os.path.realpath(path)
            if real in sources:
                raise PepnetError(f"{path}: expected every input once, got it twice (first as {sources[real]})")
            sources[real] = path
            if relative in jobs:
                raise PepnetError(
                    f"{out / relative}: expected one input, got two: {jobs[relative].source} and {path}"
                    " (give their common folder instead, which keeps the paths below it)"
                )
            jobs[relative] = Job(path, relative, out)
        for folder, name in tree.entered.items():
            if real_out.is_relative_to(folder):
                raise PepnetError(f"{out}: expected an output folder outside the input folder {name}, got one inside")
    for job in jobs.values():
        if os.path.realpath(job.target) in sources:
            raise PepnetError(f"{job.target}: expected an output other than the inputs, got the input itself")
        job.check_inside()
    return list(jobs.values())


def _expand(entry: str, tree: Tree) -> Iterator[tuple[Path, Path]]:
    """Yields (file, path of its output below the output folder)."""
    path = Path(entry)
    if _is_dir(path):
        yield from _below(path, path, tree)
    elif os.path.lexists(path):
        yield regular(path), Path(path.name)
    elif glob.has_magic(entry):
        yield from _pattern(entry, tree)
    else:
        raise PepnetError(f"{entry}: expected a file, folder or pattern, got nothing there")


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a name too long, a folder above it that nobody may read
        raise PepnetError(f"expected a name that can be looked up, got: {error.strerror}", within=clip(path)) from error


def _below(folder: Path, root: Path, tree: Tree) -> Iterator[tuple[Path, Path]]:
    files = sorted(tree.files(folder))
    if not files:
        raise PepnetError(f"{folder}: expected parquet files ({', '.join(SUFFIXES)}) in the folder, got none")
    for path in files:
        yield path, path.relative_to(root)


def _pattern(pattern: str, tree: Tree) -> Iterator[tuple[Path, Path]]:
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    if ".." in parts[fixed:]:
        raise PepnetError(f"{pattern}: expected no '..' behind a wildcard, which would lead out of the output folder")
    root = Path(*parts[:fixed])
    matches = sorted(set(tree.matches(root, parts[fixed:])))
    if not matches:
        raise PepnetError(f"{pattern}: expected at least one file that matches, got none")
    # With a pattern in a folder's place the next run may look into the output folder, wherever it lies below `root`.
    if len(parts) - fixed > 1 or parts[-1] == "**" or any(path.is_dir() for path in matches):
        tree.enter(root)
    for path in matches:
        if path.is_dir():
            yield from _below(path, root, tree)
        else:
            yield regular(path), path.relative_to(root)
