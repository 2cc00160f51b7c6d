"""The files a bundle or checkpoint lists, with size and hash, and the check that its directory is just that."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pepnet_infer.errors import BundleError
from pepnet_infer.files import sha256

MAX_DOCUMENT_BYTES = 64 << 20  # a manifest is some kilobytes; one that is larger was not written by export
_T = TypeVar("_T")


def write_document(path: Path, data: Mapping[str, Any]) -> None:
    """Writes `data` as indented JSON, keys in their own order."""
    with open(path, "x", encoding="utf-8") as file:
        file.write(json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_document(root: Path, name: str) -> dict[str, Any]:
    """Returns the JSON object in `root/name`. Raises BundleError when it is not there, a link, or not JSON."""
    path = root / name
    if not root.is_dir():
        raise BundleError(f"{root}: expected a directory with {name}, got {'a file' if root.exists() else 'nothing'}")
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_DOCUMENT_BYTES:
                raise BundleError(f"{path}: expected at most {MAX_DOCUMENT_BYTES} bytes, got {size}")
            text = file.read()
    except OSError as error:
        raise BundleError(f"{path}: expected a file, got: {error.strerror}") from error
    try:
        data = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: expected JSON, got: {error}") from error
    if not isinstance(data, dict):
        raise BundleError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a file to be read. Raises BundleError for a link or a special file, OSError for one that cannot be read."""
    mode = os.lstat(path)
    _regular(path, mode)
    # What was looked at may be another by now: no link is followed, and no pipe waited for.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _regular(path, os.fstat(handle))
    except BundleError:
        os.close(handle)
        raise
    return open(handle, "rb")


def read_listed(root: Path, name: str, entry: Mapping[str, Any]) -> bytes:
    """Reads a file that `check_files` has seen, once, and hashes what was read. Raises BundleError.

    What comes back is what the listing says, whatever is done to the directory at that moment.
    """
    path = os.path.join(root, name)
    try:
        with open_regular(path) as file:
            data = file.read(int(entry["bytes"]) + 1)
    except OSError as error:
        raise BundleError(f"{path}: expected a file, got: {error.strerror}") from error
    if len(data) != entry["bytes"]:
        raise BundleError(f"{path}: expected {entry['bytes']} bytes, got {len(data)} or more")
    found = hashlib.sha256(data).hexdigest()
    if found != entry["sha256"]:
        raise BundleError(f"{path}: expected sha256 {entry['sha256']:.64}, got {found}")
    return data


def typed(where: str, data: Mapping[str, Any], key: str, kind: type[_T]) -> _T:
    """Returns `data[key]`, which must be a `kind`. Raises BundleError naming `where` and the key."""
    if key not in data:
        raise BundleError(f"{where}: missing key {key!r}")
    value = data[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BundleError(f"{where}: {key}: expected {kind.__name__}, got {type(value).__name__} {str(value)[:80]!r}")
    return value


def describe_files(root: Path) -> dict[str, dict[str, int | str]]:
    """Returns {name: {bytes, sha256}} of every file below `root`, sorted by name."""
    return {name: {"bytes": size, "sha256": sha256(root / name)} for name, size in sorted(_walk(root).items())}


def check_files(root: Path, listing: Mapping[str, Any], document: str, hashes: bool) -> None:
    """Checks that `root` holds `document` and the listed files, whole and unaltered, and nothing else.

    Names are checked before anything is opened: absolute ones, `..` and symlinks are refused, so that nothing outside
    `root` is ever read. `hashes=False` leaves out the reading of every byte. Raises BundleError.
    """
    for name, entry in listing.items():
        where = f"{root / document}: files: {name!r}"
        if name == document or not plain(name):
            raise BundleError(f"{where}: expected a plain path inside the bundle")
        if not isinstance(entry, Mapping):
            raise BundleError(f"{where}: expected a mapping with bytes and sha256, got {type(entry).__name__}")
        typed(where, entry, "bytes", int)
        typed(where, entry, "sha256", str)
        if entry["bytes"] < 0:
            raise BundleError(f"{where}: bytes: expected 0 or more, got {entry['bytes']}")
    try:
        _compare(root, listing, document, hashes)
    except OSError as error:
        raise BundleError(f"{error.filename}: expected a readable file, got: {error.strerror}") from error


def _compare(root: Path, listing: Mapping[str, Any], document: str, hashes: bool) -> None:
    present = _walk(root)
    for name in sorted(set(listing) - set(present)):
        raise BundleError(f"{root / name}: expected a file of {listing[name]['bytes']} bytes, got no file")
    for name in sorted(set(present) - set(listing) - {document}):
        raise BundleError(f"{root / name}: expected only files listed in {document}, got one more")
    for name, entry in listing.items():
        if present[name] != entry["bytes"]:
            raise BundleError(f"{root / name}: expected {entry['bytes']} bytes, got {present[name]}")
    if hashes:
        for name, entry in listing.items():
            found = sha256(root / name)
            if found != entry["sha256"]:
                raise BundleError(f"{root / name}: expected sha256 {entry['sha256']}, got {found}")


def plain(name: str) -> bool:
    """Whether a name in a listing is a path that stays inside its directory."""
    if "\0" in name or "\\" in name:
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def _walk(root: Path) -> dict[str, int]:
    """Returns how many bytes each file below `root` has, by its path from there."""
    found: dict[str, int] = {}
    folders = [""]
    while folders:
        inside = folders.pop()
        with os.scandir(os.path.join(root, inside)) as entries:
            for entry in entries:
                mode, name = entry.stat(follow_symlinks=False), inside + entry.name
                if stat.S_ISDIR(mode.st_mode):
                    folders.append(f"{name}/")
                else:
                    _regular(entry.path, mode)
                    found[name] = mode.st_size
    return found


def _regular(path: str | Path, mode: os.stat_result) -> None:
    if stat.S_ISLNK(mode.st_mode):
        raise BundleError(f"{path}: expected a regular file, got a symbolic link")
    if not stat.S_ISREG(mode.st_mode):
        raise BundleError(f"{path}: expected a regular file, got a special file")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        names = sorted(name for name, _ in pairs)
        twice = next(name for name, after in pairwise(names) if name == after)
        raise ValueError(f"key {twice[:80]!r} comes twice")
    return data
