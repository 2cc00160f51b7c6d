"""Columns that folders' names give, as in tab=1/day=2022-05-06. The schema says of which types they are."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import pyarrow as pa

from pepnet_infer.encode.decode import OF_TIME
from pepnet_infer.encode.encoder import join_rule
from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.feature_schema import FeatureSchema, FieldSpec

Kind = Literal["integer", "number", "text", "list"]

#: What Hive and Spark write for a null in a folder's name.
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
#: Kind → the column's type, and what a folder's name has to hold. No name can hold a list.
_TYPES: dict[Kind, tuple[pa.DataType, str]] = {
    "integer": (pa.int64(), "an integer of 64 bits"),
    "number": (pa.float64(), "a finite number"),
    "text": (pa.string(), "UTF-8 text"),
}


def folder_values(path: Path) -> dict[str, str | None]:
    """Returns key → value of the `key=value` folders in `path` as it was given; None for Hive's null.

    Folders above the first one that was given do not count: a command says by itself what it reads. Of a key that
    occurs several times the last value is returned; see `folder_column`.
    """
    return {key: value for _, key, value in _named(path)}


def folder_column(schema: FeatureSchema, path: Path, name: str) -> pa.Scalar[Any]:
    """Returns the value that the folders above the file at `path` give to all its rows in the column `name`.

    An id is an integer; a hashed field's value and a text are the text as it stands, and so is what the schema does
    not have; a dense field's value is a number; a domain is of the type of the schema's domains. Raises SchemaError
    for a value that is none of that kind, and where folders inside one another have different ones.
    """
    named = [(folder, value) for folder, key, value in _named(path) if key == name]
    innermost, text = named[-1]

    def misfit(expected: str) -> SchemaError:
        return SchemaError(within=innermost, column=name, expected=expected, got=repr(text))

    for folder, other in named:
        if other != text:
            raise misfit(f"the value {other!r} of {folder} in all folders")
    if not _is_utf8(name):
        raise misfit("a name of a column in UTF-8")
    kind = _kind(schema, name)
    if kind == "list":
        raise misfit("lists, which only a column of the file can hold")
    type_, expected = _TYPES[kind]
    value = None if text is None else _read(text, kind)
    if value is None and text is not None:
        raise misfit(f"{expected} in the folder's name")
    return pa.scalar(value, type_)


def _kind(schema: FeatureSchema, name: str) -> Kind:
    readers = {_wanted(spec) for spec in schema.fields if spec.join is None and spec.column == name}
    readers |= {_id(join_rule(schema, join).hashed) for join in schema.joins if join.column == name}
    if name == schema.domain_column:
        readers.add("text" if isinstance(schema.domains[0], str) else "integer")
    # Several fields may read one column. A hashed one takes integers too, a dense one as well.
    if "list" in readers:
        return "list"
    if "text" in readers or readers <= {"hashed"}:
        return "text"
    return "number" if readers == {"number"} else "integer"


def _wanted(spec: FieldSpec) -> str:
    op = spec.transform.op
    if spec.kind == "bag":
        return "list" if spec.separator is None else "text"
    if op in OF_TIME:
        return "integer"
    if spec.kind == "dense" or op == "bucketize":
        return "number"
    return _id(spec.hashed)


def _id(hashed: bool) -> str:
    return "hashed" if hashed else "integer"


def _read(text: str, kind: Kind) -> int | float | str | None:
    if kind == "integer":
        number = int(text) if _INTEGER.fullmatch(text) and len(text) <= 40 else 1 << 63
        return number if -(1 << 63) <= number < 1 << 63 else None
    if kind == "number":
        real = float(text) if _NUMBER.fullmatch(text) else math.inf
        return real if math.isfinite(real) else None
    return text if _is_utf8(text) else None


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _named(path: Path) -> Iterator[tuple[Path, str, str | None]]:
    """Yields (folder, key, value) from the outermost `key=value` folder on."""
    normal = os.path.normpath(path)
    if "=" not in normal:
        return
    for folder in reversed(Path(normal).parents):
        key, equals, value = folder.name.partition("=")
        if equals and key:
            yield folder, _text(key), None if value == _HIVE_NULL else _text(value)


def _text(part: str) -> str:
    return unquote(part, errors="surrogateescape")
