"""The feature schema: which columns a model reads and where each one lands in its three dense inputs.

A schema is data: it is written in a yaml file beside the model's flags, stored in the bundle's manifest, and hashed,
so that rows, weights and updates made for another schema are refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from pepnet_infer.computed_once import computed_once
from pepnet_infer.errors import SchemaError
from pepnet_infer.quoting import quote
from pepnet_infer.schema.ids import MAX_ID, MAX_TABLES
from pepnet_infer.validation import Finite, Options, Positive, convert

InputName = Literal["general", "domain", "prior"]
INPUTS: tuple[InputName, ...] = ("general", "domain", "prior")
_FLOAT32 = 3.4028234663852886e38
_HOURS = 26  # from UTC, either way: no clock on earth is further off
_FIELD_ORDER = {"id": 0, "bag": 1, "dense": 2}  # g = [embedded fields ; pooled bags ; dense fields]

#: Of a width, and of the values of a bag.
Width = Annotated[int, Meta(ge=1, le=2**31 - 1)]
TableNumber = Annotated[int, Meta(ge=0, le=MAX_TABLES - 1)]
#: A value that the domain column may have.
Domain = Annotated[int, Meta(ge=0, le=MAX_ID - 1)] | str


class _Part(Options, frozen=True):
    """A part of a schema: its types are checked when it is made."""

    refusal = SchemaError


class TableSpec(_Part, frozen=True):
    """One embedding table, of rows [`dim`]. `number` is its place in the schema and the top 16 bits of its keys."""

    name: str  #: as fields name it
    dim: Width
    number: TableNumber


class JoinSpec(_Part, frozen=True):
    """A side table joined by id: `column` of the scored rows finds the row whose `key` is equal.

    `file` is read at training only, relative to the data's folder; the bundle carries the encoded result.
    """

    name: str  #: as fields name it
    column: str
    key: str
    file: str


class Transform(_Part, frozen=True):
    """What is done to a raw column before it becomes an id or a dense value.

    hour: unix milliseconds → hour of day; weekday: → 0 (Monday) to 6; both shifted by `utc_offset` hours.
    bucketize: number → index of its interval between the ascending `boundaries` (0 below the first).
    log1p: number → sign(x)·log(1 + |x|).
    """

    op: Literal["none", "hour", "weekday", "bucketize", "log1p"] = "none"  #: which one
    utc_offset: Annotated[float, Meta(ge=-_HOURS, le=_HOURS)] = 0.0
    boundaries: tuple[Finite, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds = list(self.boundaries)
        if self.op == "bucketize" and (not bounds or bounds != sorted(set(bounds))):
            raise SchemaError(f"boundaries: expected ascending numbers, got {quote(bounds)}")


class FieldSpec(_Part, frozen=True):
    """One input column of the model."""

    name: str  #: unique within the schema
    kind: Literal["id", "bag", "dense"]  #: one embedding row, several that are pooled, or a number
    side: Literal["user", "item", "author", "context", "domain"]  #: `rank` reads all but item and author once
    column: str = ""  #: the column it is read from; the field's name unless the yaml says otherwise
    join: str | None = None  #: the side table that has the column; None: the scored rows themselves
    table: str | None = None  #: id and bag: the embedding table
    pooling: Literal["mean", "sum"] = "mean"  #: bag
    max_len: Width | None = None  #: bag: the last `max_len` values count
    separator: str | None = None  #: bag: a string column split at this
    hashed: bool = False  #: id and bag: strings, wide and negative integers allowed, by hash
    nullable: bool = False  #: null → the table's default row, an empty bag, or `fill`; else null is an error
    transform: Transform = Transform()  #: id and dense
    fill: Finite = 0.0  #: dense: what a null counts as, before normalisation
    mean: Finite | None = None  #: dense: normalisation (value - mean) / std; None until fitted on training rows
    std: Positive | None = None  #: see `mean`
    inputs: Annotated[tuple[InputName, ...], Meta(min_length=1)] = ("general",)  #: of the model

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.column:
            msgspec.structs.force_setattr(self, "column", self.name)
        if self.kind != "dense":
            if self.transform.op == "log1p":
                raise SchemaError("transform: expected one of none, hour, weekday, bucketize, got 'log1p'")
            if self.separator is not None and (not self.separator or self.transform.op != "none"):
                got = f"transform {quote(self.transform.op)}" if self.separator else "an empty one"
                raise SchemaError(f"separator: expected text and no transform, got {got}")
        elif self.table is not None:
            raise SchemaError(f"table: a dense field has no table, got {quote(self.table)}")
        if self.kind == "dense" and not abs(self.fill - (self.mean or 0.0)) / (self.std or 1.0) <= _FLOAT32:
            raise SchemaError(f"fill: expected one that is finite when it is normalised, got {self.fill}")


class _Table(Struct, forbid_unknown_fields=True):
    dim: Width
    number: TableNumber | None = None


class _Join(Struct, forbid_unknown_fields=True):
    key: str
    file: str
    column: str | None = None


class _Domain(Struct, forbid_unknown_fields=True):
    column: str
    values: list[Domain]


class _Document(Struct, forbid_unknown_fields=True):
    """A schema as yaml and manifest have it."""

    name: str
    tables: dict[str, _Table]
    fields: Annotated[list[FieldSpec], Meta(max_length=8192)]
    domain: _Domain
    tasks: dict[str, str]
    joins: dict[str, _Join] | None = None


@dataclass(frozen=True)
class Slot:
    """Where a field's values lie in an input matrix: columns [offset, offset + width)."""

    field: FieldSpec
    offset: int
    width: int


@dataclass(frozen=True)
class FeatureSchema:
    """All `fields`, `tables` and `joins` of a model, its `domains` and its `tasks`."""

    name: str  #: for people
    tables: tuple[TableSpec, ...]
    fields: tuple[FieldSpec, ...]
    joins: tuple[JoinSpec, ...]
    domain_column: str  #: the column that says on which page a row is shown
    domains: tuple[int | str, ...]
    tasks: tuple[str, ...]
    labels: tuple[str, ...]  #: the label column of each task; read at training only

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FeatureSchema:
        """Reads the yaml's `schema` section or the manifest's `schema`. Raises SchemaError with the offending path."""
        read: _Document = convert("", _with_transforms(data), _Document, SchemaError, "schema")
        tables = enumerate(read.tables.items())
        joins = (read.joins or {}).items()
        return cls(
            name=read.name,
            tables=tuple(TableSpec(n, t.dim, place if t.number is None else t.number) for place, (n, t) in tables),
            fields=tuple(read.fields),
            joins=tuple(JoinSpec(n, j.key if j.column is None else j.column, j.key, j.file) for n, j in joins),
            domain_column=read.domain.column,
            domains=tuple(read.domain.values),
            tasks=tuple(read.tasks),
            labels=tuple(read.tasks.values()),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` reads, with every default written out."""
        return {
            "name": self.name,
            "tables": {t.name: {"dim": t.dim, "number": t.number} for t in self.tables},
            "joins": {j.name: {"column": j.column, "key": j.key, "file": j.file} for j in self.joins},
            "fields": msgspec.json.decode(msgspec.json.encode(self.fields)),
            "domain": {"column": self.domain_column, "values": list(self.domains)},
            "tasks": dict(zip(self.tasks, self.labels, strict=True)),
        }

    @computed_once
    def hash(self) -> str:
        """SHA-256 of the JSON in its own order, hex: the order of fields and tasks is the order of columns."""
        text = json.dumps(self.to_json(), separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @computed_once
    def table_by_name(self) -> dict[str, TableSpec]:
        """Table name → its spec."""
        return {t.name: t for t in self.tables}

    @computed_once
    def field_by_name(self) -> dict[str, FieldSpec]:
        """Field name → its spec."""
        return {f.name: f for f in self.fields}

    @computed_once
    def layout(self) -> dict[str, tuple[Slot, ...]]:
        """Input name → its slots in column order: ids, then bags, then dense, each in schema order."""
        ordered = sorted(self.fields, key=lambda f: _FIELD_ORDER[f.kind])
        layout: dict[str, tuple[Slot, ...]] = {}
        for name in INPUTS:
            slots, offset = [], 0
            for spec in ordered:
                if name in spec.inputs:
                    slots.append(Slot(spec, offset, self.width(spec)))
                    offset += self.width(spec)
            layout[name] = tuple(slots)
        return layout

    @computed_once
    def widths(self) -> dict[str, int]:
        """Input name → number of columns."""
        return {name: sum(s.width for s in slots) for name, slots in self.layout.items()}

    @computed_once
    def columns(self) -> tuple[str, ...]:
        """The columns a scored batch must have: raw field columns, join columns and the domain column."""
        names = [f.column for f in self.fields if f.join is None] + [j.column for j in self.joins]
        return tuple(dict.fromkeys([*names, self.domain_column]))

    def width(self, spec: FieldSpec) -> int:
        """Columns a field takes in an input: its table's dim, or 1 when dense."""
        return 1 if spec.table is None else self.table_by_name[spec.table].dim

    @property
    def fitted(self) -> bool:
        """Whether every dense field has its normalisation."""
        return all(f.mean is not None and f.std is not None for f in self.fields if f.kind == "dense")

    def with_normalisation(self, stats: Mapping[str, tuple[float, float]]) -> FeatureSchema:
        """Returns the schema with (mean, std) of the named dense fields set."""
        fields = tuple(
            msgspec.structs.replace(f, mean=stats[f.name][0], std=stats[f.name][1]) if f.name in stats else f
            for f in self.fields
        )
        return dataclasses.replace(self, fields=fields)


def _with_transforms(data: object) -> object:
    """Returns a document in which a transform is a mapping, also if it is written as a name, or without boundaries."""
    if not isinstance(data, Mapping) or not isinstance(data.get("fields"), list):
        return data

    def mapping(transform: object) -> object:
        if isinstance(transform, str):
            return {"op": transform}
        if isinstance(transform, Mapping) and transform.get("boundaries", ()) is None:
            return {**transform, "boundaries": []}
        return transform

    fields = [
        {**spec, "transform": mapping(spec["transform"])} if isinstance(spec, Mapping) and "transform" in spec else spec
        for spec in data["fields"]
    ]
    return {**data, "fields": fields}


def _check(schema: FeatureSchema) -> None:
    """Raises SchemaError unless names are distinct and what refers to something by name finds it."""
    tables, joins = {t.name for t in schema.tables}, {j.name for j in schema.joins}
    numbers = [t.number for t in schema.tables]
    if len(set(numbers)) != len(numbers):
        raise SchemaError(f"schema.tables: expected distinct numbers, got {quote(numbers)}")
    for what, given in (("tables", tables), ("joins", joins), ("tasks", schema.tasks)):
        for name in given:
            if not name.isidentifier():
                raise SchemaError(f"schema.{what}: expected a name of letters, digits and _, got {quote(name)}")
    names = [f.name for f in schema.fields]
    if len(set(names)) != len(names):
        twice = next(name for name, after in pairwise(sorted(names)) if name == after)
        raise SchemaError(f"schema.fields: duplicate name {quote(twice)}")
    for spec in schema.fields:
        where = f"schema.fields.{spec.name}"
        if spec.kind != "dense" and spec.table not in tables:
            raise SchemaError(f"{where}.table: expected one of {', '.join(sorted(tables))}, got {quote(spec.table)}")
        if spec.join is not None and spec.join not in joins:
            expected = ", ".join(sorted(joins)) or "none"
            raise SchemaError(f"{where}.join: expected one of {expected}, got {quote(spec.join)}")
    if not schema.domains or len(set(schema.domains)) != len(schema.domains):
        raise SchemaError(f"schema.domain.values: expected distinct values, got {quote(list(schema.domains))}")
    if len({type(v) for v in schema.domains}) > 1:
        raise SchemaError("schema.domain.values: expected all integers or all strings, got both")
    if not schema.tasks:
        raise SchemaError("schema.tasks: expected at least one, got none")
