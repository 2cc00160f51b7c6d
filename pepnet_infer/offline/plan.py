"""Which files are scored and where each one's scores go."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from pepnet_infer.errors import PepnetError

if TYPE_CHECKING:
    from pepnet_infer.schema import FeatureSchema

SUFFIXES = (".parquet", ".parq", ".pq")
#: What Hive and Spark write for a null in a folder's name.
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Job:
    """One input file and its output. `partitions`: the `key=value` folders above it, text as in the path."""

    source: Path
    relative: Path
    target: Path
    partitions: Mapping[str, str | None]


@dataclass(frozen=True)
class Constant:
    """A column with one value in all rows of a file."""

    value: int | float | str | None
    type: pa.DataType


@dataclass(frozen=True)
class _Found:
    path: Path
    relative: Path
    root: Path | None  # the folder that will be walked again by the next run; the output must not lie in it


def plan(inputs: PathLike | Sequence[PathLike], out: PathLike) -> list[Job]:
    """Returns one job per input file, in order of the inputs and then of the path.

    An input is a file, a folder (walked; names that start with `.` or `_` are left out, as Hive and Spark do) or a
    glob pattern (`**` crosses folders). The output keeps the path below the folder, or below the fixed part of the
    pattern; a single file keeps its name. Raises PepnetError for an input that is not there or given twice, for two
    inputs with the same output, and for an output folder inside an input folder.
    """
    out = Path(out)
    if os.path.lexists(out) and not out.is_dir():
        raise PepnetError(f"{out}: expected a folder for the output, got a file")
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    if not given:
        raise PepnetError("inputs: expected at least one file, folder or pattern, got none")
    found = [f for entry in given for f in _expand(os.fspath(entry))]
    real_out = Path(os.path.realpath(out))
    sources: dict[str, Path] = {}
    targets: dict[Path, Path] = {}
    jobs = []
    for f in found:
        if f.root is not None and real_out.is_relative_to(os.path.realpath(f.root)):
            raise PepnetError(f"{out}: expected an output folder outside the input folder {f.root}, got one inside")
        real = os.path.realpath(f.path)
        if real in sources:
            raise PepnetError(f"{f.path}: expected every input once, got it twice (first as {sources[real]})")
        sources[real] = f.path
        target = out / f.relative
        if f.relative in targets:
            raise PepnetError(
                f"{target}: expected one input, got two: {targets[f.relative]} and {f.path}"
                " (give their common folder instead, which keeps the paths below it)"
            )
        targets[f.relative] = f.path
        jobs.append(Job(f.path, f.relative, target, hive_partitions(f.path)))
    for job in jobs:
        if os.path.realpath(job.target) in sources:
            raise PepnetError(f"{job.target}: expected an output other than the inputs, got the input itself")
    return jobs


def hive_partitions(path: Path) -> dict[str, str | None]:
    """Returns key → value of the `key=value` folders in `path`; None for Hive's null."""
    found: dict[str, str | None] = {}
    for part in Path(os.path.abspath(path)).parent.parts:
        key, equals, value = part.partition("=")
        if equals and key:
            found[unquote(key)] = None if value == _HIVE_NULL else unquote(value)
    return found


def constants(jobs: Sequence[Job], schema: FeatureSchema) -> list[dict[str, Constant]]:
    """Returns, for every job, the schema's columns that the names of its folders give.

    All files get the same type: text if the schema's domains are text, else integers if every folder's value is one,
    else floats for a dense field, else text.
    """
    dense = {f.column for f in schema.fields if f.kind == "dense"}
    made: list[dict[str, Constant]] = [{} for _ in jobs]
    for name in schema.columns:
        present = {text for job in jobs if (text := job.partitions.get(name)) is not None}
        convert: Callable[[str], int | float | str] = str
        kind: pa.DataType = pa.string()
        if name == schema.domain_column and isinstance(schema.domains[0], str):
            pass
        elif all(_INTEGER.fullmatch(text) for text in present):
            convert, kind = int, pa.int64()
        elif name in dense and all(_NUMBER.fullmatch(text) for text in present):
            convert, kind = float, pa.float64()
        for job, values in zip(jobs, made, strict=True):
            if name in job.partitions:
                text = job.partitions[name]
                values[name] = Constant(None if text is None else convert(text), kind)
    return made


def _expand(entry: str) -> Iterator[_Found]:
    path = Path(entry)
    if path.is_dir():
        yield from _folder(path, path)
    elif path.is_file():
        yield _Found(path, Path(path.name), None)
    elif os.path.exists(path):
        raise PepnetError(f"{entry}: expected a file or folder, got a special file")
    elif glob.has_magic(entry):
        yield from _pattern(entry)
    else:
        raise PepnetError(f"{entry}: expected a file, folder or pattern, got nothing there")


def _folder(folder: Path, root: Path) -> Iterator[_Found]:
    files = sorted(_walk(folder))
    if not files:
        raise PepnetError(f"{folder}: expected parquet files ({', '.join(SUFFIXES)}) in the folder, got none")
    for path in files:
        yield _Found(path, path.relative_to(root), folder)


def _pattern(pattern: str) -> Iterator[_Found]:
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])

    def private(path: Path) -> bool:  # _SUCCESS, _metadata, _temporary/…
        return any(part.startswith("_") for part in path.relative_to(root).parts)

    matches = sorted(map(Path, glob.glob(pattern, recursive=True)))
    # With a pattern in a folder's place the next run may look into the output folder, wherever it lies below `root`.
    crosses = fixed < len(parts) - 1 or parts[-1] == "**"
    yielded = 0
    for path in matches:
        if private(path) and not any(part.startswith("_") for part in parts[fixed:]):
            continue
        if path.is_file():
            yield _Found(path, path.relative_to(root), root if crosses else None)
            yielded += 1
        elif path.is_dir() and parts[-1] != "**":
            for found in _folder(path, root):
                yield _Found(found.path, found.relative, root)
                yielded += 1
    if not yielded:
        raise PepnetError(f"{pattern}: expected at least one file that matches, got none")


def _walk(folder: Path) -> Iterable[Path]:
    def refuse(error: OSError) -> None:
        raise PepnetError(f"{error.filename}: expected a readable folder, got: {error.strerror}") from error

    for where, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        for name in names:
            if name.endswith(SUFFIXES) and not name.startswith((".", "_")):
                yield Path(where, name)
