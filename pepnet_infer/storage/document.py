"""JSON from outside (manifests, parity files, headers of tensor files), read with limits on what it may cost."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pepnet_infer.errors import BundleError
from pepnet_infer.quoting import quote

#: A manifest is some kilobytes; that of ten thousand fields is 4 MB.
MAX_BYTES = 16 << 20
#: Values of a document at most, counted before any is made: `[{},{},…]` takes 24 times its own size in memory.
MAX_VALUES = 500_000
#: How deep values lie in each other at most.
MAX_DEPTH = 64

_DOCUMENTS = ("manifest.json", "checkpoint.json")  # a bundle's or a delta's, and a checkpoint's
_MAX_DIGITS = 100  # of a number: what `json.dumps` writes of a float64 has 24 characters at most
_T = TypeVar("_T")


def write_document(path: Path, data: Mapping[str, Any]) -> None:
    """Writes `data` as a new file inside a directory that is being made: see `atomic.new_directory`."""
    with open(path, "xb") as file:
        file.write(document_bytes(data))


def document_bytes(data: Mapping[str, Any]) -> bytes:
    """Returns `data` as indented JSON, keys in their own order."""
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()


def read_document(root: Path, name: str) -> dict[str, Any]:
    """Returns the JSON object in `root/name`. Raises BundleError when it is not there, a link, or not JSON."""
    path = root / name
    try:
        if not root.is_dir():
            got = "a file" if root.exists() else "nothing"
            raise BundleError(f"expected a directory with {name}, got {got}", file=root)
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise BundleError(f"expected at most {MAX_BYTES} bytes, got {size}", file=path)
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        other = next((other for other in _DOCUMENTS if (root / other).is_file()), None)
        got = "one without" if other is None else f"one with {other}"
        raise BundleError(f"expected a directory with {name}, got {got}", file=root) from error
    except OSError as error:
        raise BundleError(f"expected a file, got: {error.strerror}", file=path) from error
    return parse_document(str(path), text)


def parse_document(where: str, text: bytes) -> dict[str, Any]:
    """Returns the JSON object that `text` is, in time and memory that grow no faster than `text` does.

    Raises BundleError for what is no JSON object, for a key that comes twice, a number beyond 64 bits or float64, and
    for more bytes, values or depth than the limits of this module.
    """
    if len(text) > MAX_BYTES:
        raise BundleError(f"expected at most {MAX_BYTES} bytes of JSON, got {len(text)}", within=where)
    values = text.count(b",") + text.count(b"{") + text.count(b"[")
    if values > MAX_VALUES:
        raise BundleError(f"expected JSON of at most {MAX_VALUES} values, got about {values}", within=where)
    try:
        data = json.loads(
            text.decode(),
            parse_constant=no_constant,
            parse_int=_integer,
            parse_float=_real,
            object_pairs_hook=_distinct,
        )
    except (ValueError, RecursionError) as error:
        raise BundleError(f"expected JSON, got: {error!s:.200}", within=where) from error
    if not isinstance(data, dict):
        raise BundleError(f"expected a JSON object, got {type(data).__name__}", within=where)
    _check_depth(where, data)
    if b"\\u" in text:
        _check_text(where, data)
    return data


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a file to be read. Raises BundleError for a link or a special file, OSError for one that cannot be read."""
    mode = os.lstat(path)
    check_regular(path, mode)
    # What was looked at may be another by now: no link is followed, and no pipe waited for.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        check_regular(path, os.fstat(handle))
    except BundleError:
        os.close(handle)
        raise
    return open(handle, "rb")


def check_regular(path: str | Path, mode: os.stat_result) -> None:
    """Raises BundleError unless `mode` is that of a regular file."""
    if stat.S_ISLNK(mode.st_mode):
        raise BundleError("expected a regular file, got a symbolic link", file=path)
    if not stat.S_ISREG(mode.st_mode):
        raise BundleError("expected a regular file, got a special file", file=path)


def typed(where: str, data: Mapping[str, Any], key: str, kind: type[_T]) -> _T:
    """Returns `data[key]`, which must be a `kind`. Raises BundleError naming `where` and the key."""
    if key not in data:
        raise BundleError(f"missing key {quote(key)}", within=where)
    value = data[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BundleError(f"{key}: expected {kind.__name__}, got {type(value).__name__} {quote(value)}", within=where)
    return value


def _check_depth(where: str, data: object) -> None:
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, list | dict)
        ]
        if not level:
            return
    raise BundleError(f"expected JSON, at most {MAX_DEPTH} values deep, got deeper", within=where)


def _check_text(where: str, data: object) -> None:
    """Refuses halves of characters, which JSON can write and no file, column or message can have."""
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BundleError(f"expected JSON, got: {error!s:.200}", within=where) from error


def no_constant(name: str) -> float:
    """Refuses NaN and Infinity, which JSON has not and `json.loads` takes: its `parse_constant`."""
    raise ValueError(f"{name} is not a JSON number")


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (number := int(digits)) < 2**64:
        raise ValueError(f"the number {digits[:24]} is beyond 64 bits")
    return number


def _real(digits: str) -> float:
    if len(digits) > _MAX_DIGITS or not math.isfinite(number := float(digits)):
        raise ValueError(f"the number {digits[:24]} is beyond float64")
    return number


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        names = sorted(name for name, _ in pairs)
        twice = next(name for name, after in pairwise(names) if name == after)
        raise ValueError(f"key {quote(twice)} comes twice")
    return data
