"""Columns that folders' names give, as in tab=1/day=2022-05-06. The schema says of which types they are."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import pyarrow as pa

from pepnet_infer.encode.decode import OF_TIME
from pepnet_infer.encode.encoder import join_rule
from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.feature_schema import FeatureSchema, FieldSpec

#: What is read from a name. "list" cannot be.
Kind = Literal["integer", "number", "text", "list"]

#: What Hive and Spark write for a null in a folder's name.
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TYPES: dict[Kind, pa.DataType] = {"integer": pa.int64(), "number": pa.float64(), "text": pa.string()}


@dataclass(frozen=True)
class Constant:
    """A column with one value in all rows of a file."""

    value: int | float | str | None
    type: pa.DataType

    def array(self, rows: int) -> pa.Array[Any]:
        """Returns the column."""
        return pa.array([self.value] * rows, self.type)


def folder_values(path: Path) -> dict[str, str | None]:
    """Returns key → value of the `key=value` folders in `path` as it was given; None for Hive's null.

    Folders above the first one that was given do not count: a command says by itself what it reads. Of a key that comes
    several times the last one is there; see `FolderColumns.read`.
    """
    return {key: value for _, key, value in _named(path)}


class FolderColumns:
    """Reads folders' values as what a schema wants of each column."""

    def __init__(self, schema: FeatureSchema) -> None:
        self._kinds = _kinds(schema)

    def read(self, path: Path, values: Mapping[str, str | None], name: str) -> Constant:
        """Returns the column `name` of the file at `path`, whose folders say `values`.

        An id is an integer; a hashed field's value and a text are the text as it stands, and so is what the schema does
        not have; a dense field's value is a number; a domain is of the type of the schema's domains. Raises SchemaError
        for a value that is none of that kind, and where folders inside one another have different ones.
        """
        for folder, key, other in _named(path):
            if key == name and other != values[name]:
                raise _misfit(path, name, f"the value {other!r} of {folder} in all folders", values[name])
        text, kind = values[name], self._kinds.get(name, "text")
        if not _is_utf8(name):
            raise _misfit(path, name, "a name of a column in UTF-8", text)
        value: int | float | str | None = None
        if kind == "list":
            raise _misfit(path, name, "lists, which only a column of the file can hold", text)
        if text is not None:
            value = _read(text, kind)
            if value is None:
                wanted = {"integer": "an integer of 64 bits", "number": "a finite number", "text": "UTF-8 text"}[kind]
                raise _misfit(path, name, f"{wanted} in the folder's name", text)
        return Constant(value, _TYPES[kind])


def _kinds(schema: FeatureSchema) -> dict[str, Kind]:
    wanted: dict[str, set[str]] = {}
    for spec in schema.fields:
        if spec.join is None:
            wanted.setdefault(spec.column, set()).add(_wanted(spec))
    for join in schema.joins:
        wanted.setdefault(join.column, set()).add("hashed" if join_rule(schema, join).hashed else "integer")
    domain = "text" if isinstance(schema.domains[0], str) else "integer"
    wanted.setdefault(schema.domain_column, set()).add(domain)
    return {name: _kind(kinds) for name, kinds in wanted.items()}


def _wanted(spec: FieldSpec) -> str:
    op = spec.transform.op
    if spec.kind == "bag":
        return "list" if spec.separator is None else "text"
    if op in OF_TIME:
        return "integer"
    if spec.kind == "dense" or op == "bucketize":
        return "number"
    return "hashed" if spec.hashed else "integer"


def _kind(wanted: set[str]) -> Kind:
    # Several fields may read one column. A hashed one takes integers too, a dense one as well.
    if "list" in wanted:
        return "list"
    if "text" in wanted or wanted == {"hashed"}:
        return "text"
    return "number" if wanted == {"number"} else "integer"


def _read(text: str, kind: Kind) -> int | float | str | None:
    if kind == "integer":
        number = int(text) if _INTEGER.fullmatch(text) and len(text) <= 40 else 1 << 63
        return number if -(1 << 63) <= number < 1 << 63 else None
    if kind == "number":
        real = float(text) if _NUMBER.fullmatch(text) else math.inf
        return real if math.isfinite(real) else None
    return text if _is_utf8(text) else None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def _misfit(path: Path, name: str, wanted: str, text: str | None) -> SchemaError:
    folder = [folder for folder, key, _ in _named(path) if key == name][-1]
    return SchemaError(within=folder, column=name, expected=wanted, got=repr(text))
