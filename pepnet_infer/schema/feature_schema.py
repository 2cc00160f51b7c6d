"""The feature schema: which columns a model reads and where each one lands in its three dense inputs.

A schema is data: it is written in a yaml file beside the model's flags, stored in the bundle's manifest, and hashed,
so that rows, weights and updates made for another schema are refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from pepnet_infer.computed_once import computed_once
from pepnet_infer.errors import SchemaError
from pepnet_infer.quoting import clip, quote
from pepnet_infer.schema.ids import MAX_ID, MAX_TABLES

KINDS = ("id", "bag", "dense")
SIDES = ("user", "item", "author", "context", "domain")
INPUTS = ("general", "domain", "prior")
POOLINGS = ("mean", "sum")
TRANSFORMS = ("none", "hour", "weekday", "bucketize", "log1p")
_MOST = 2**31 - 1  # of a width, and of the values of a bag
_FLOAT32 = 3.4028234663852886e38
_MOST_FIELDS = 8192
_HOURS = 26  # from UTC, either way: no clock on earth is further off
_T = TypeVar("_T")
_FIELD_ORDER = {"id": 0, "bag": 1, "dense": 2}  # g = [embedded fields ; pooled bags ; dense fields]


@dataclass(frozen=True)
class TableSpec:
    """One embedding table. `number` is its place in the schema and the top 16 bits of its keys."""

    name: str
    dim: int
    number: int


@dataclass(frozen=True)
class JoinSpec:
    """A side table joined by id: `column` of the scored rows finds the row whose `key` is equal.

    `file` is read at training only, relative to the data's folder; the bundle carries the encoded result.
    """

    name: str
    column: str
    key: str
    file: str


@dataclass(frozen=True)
class Transform:
    """What is done to a raw column before it becomes an id or a dense value.

    hour: unix milliseconds → hour of day; weekday: → 0 (Monday) to 6; both shifted by `utc_offset` hours.
    bucketize: number → index of its interval between the ascending `boundaries` (0 below the first).
    log1p: number → sign(x)·log(1 + |x|).
    """

    op: str = "none"
    utc_offset: float = 0.0
    boundaries: tuple[float, ...] = ()


@dataclass(frozen=True)
class FieldSpec:
    """One input column of the model."""

    name: str
    kind: str
    side: str
    column: str  # the column it is read from; the field's name unless the yaml says otherwise
    join: str | None = None  # the side table that has the column; None: the scored rows themselves
    table: str | None = None  # id and bag
    pooling: str = "mean"  # bag
    max_len: int | None = None  # bag: the last `max_len` values count
    separator: str | None = None  # bag: a string column split at this
    hashed: bool = False  # id and bag: strings, wide and negative integers allowed, by hash
    nullable: bool = False  # null → the table's default row, an empty bag, or `fill`; else null is an error
    transform: Transform = Transform()
    fill: float = 0.0  # dense: what a null counts as, before normalisation
    mean: float | None = None  # dense: normalisation (value - mean) / std; None until fitted on training rows
    std: float | None = None
    inputs: tuple[str, ...] = ("general",)


@dataclass(frozen=True)
class Slot:
    """Where a field's values lie in an input matrix: columns [offset, offset + width)."""

    field: FieldSpec
    offset: int
    width: int


@dataclass(frozen=True)
class FeatureSchema:
    """All fields, tables and joins of a model, its domains and its tasks."""

    name: str
    tables: tuple[TableSpec, ...]
    fields: tuple[FieldSpec, ...]
    joins: tuple[JoinSpec, ...]
    domain_column: str
    domains: tuple[int | str, ...]
    tasks: tuple[str, ...]
    labels: tuple[str, ...]  # the label column of each task; read at training only

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FeatureSchema:
        """Reads the yaml's `schema` section or the manifest's `schema`. Raises SchemaError with the offending path."""
        _keys("schema", data, {"name", "tables", "fields", "joins", "domain", "tasks"}, {"joins"})
        tables = []
        for position, (name, spec) in enumerate(_map("schema.tables", data["tables"]).items()):
            where = f"schema.tables.{name}"
            _keys(where, spec, {"dim", "number"}, {"number"})
            dim, number = spec["dim"], spec.get("number", position)
            tables.append(TableSpec(name, _typed(f"{where}.dim", dim, int), _typed(f"{where}.number", number, int)))
        joins = []
        for name, spec in _map("schema.joins", data.get("joins") or {}).items():
            where = f"schema.joins.{name}"
            _keys(where, spec, {"key", "file", "column"}, {"column"})
            column, key, file = spec.get("column", spec["key"]), spec["key"], spec["file"]
            joins.append(JoinSpec(name, *(_typed(where, text, str) for text in (column, key, file))))
        specs = _typed("schema.fields", data["fields"], list)
        if len(specs) > _MOST_FIELDS:
            raise SchemaError(f"schema.fields: expected at most {_MOST_FIELDS}, got {len(specs)}")
        fields = tuple(_field(i, spec) for i, spec in enumerate(specs))
        domain = data["domain"]
        _keys("schema.domain", domain, {"column", "values"}, set())
        tasks = _map("schema.tasks", data["tasks"])
        return cls(
            name=_typed("schema.name", data["name"], str),
            tables=tuple(tables),
            fields=fields,
            joins=tuple(joins),
            domain_column=_typed("schema.domain.column", domain["column"], str),
            domains=tuple(_typed("schema.domain.values", domain["values"], list)),
            tasks=tuple(tasks),
            labels=tuple(_typed(f"schema.tasks.{task}", label, str) for task, label in tasks.items()),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` reads, with every default written out."""
        return {
            "name": self.name,
            "tables": {t.name: {"dim": t.dim, "number": t.number} for t in self.tables},
            "joins": {j.name: {"column": j.column, "key": j.key, "file": j.file} for j in self.joins},
            "fields": [_field_json(f) for f in self.fields],
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
            dataclasses.replace(f, mean=stats[f.name][0], std=stats[f.name][1]) if f.name in stats else f
            for f in self.fields
        )
        return dataclasses.replace(self, fields=fields)


def _field(index: int, spec: object) -> FieldSpec:
    where = f"schema.fields[{index}]"
    data = dict(_map(where, spec))
    where = f"{where} ({clip(data.get('name', '?'), 80)})"
    known = {f.name for f in dataclasses.fields(FieldSpec)}
    _keys(where, data, known, known - {"name", "kind", "side"})
    data.setdefault("column", data["name"])
    data.setdefault("table", None)
    for key in ("name", "kind", "side", "column"):
        _typed(f"{where}.{key}", data[key], str)
    for key, default in (("join", None), ("table", None), ("separator", None), ("pooling", "mean")):
        data[key] = _optional(f"{where}.{key}", data.get(key, default), str)
    data["max_len"] = _optional(f"{where}.max_len", data.get("max_len"), int)
    transform = data.get("transform", "none")
    if isinstance(transform, str):
        transform = {"op": transform}
    _keys(f"{where}.transform", transform, {"op", "utc_offset", "boundaries"}, {"utc_offset", "boundaries"})
    boundaries = transform.get("boundaries")
    boundaries = [] if boundaries is None else _typed(f"{where}.transform.boundaries", boundaries, list)
    data["transform"] = Transform(
        _typed(f"{where}.transform.op", transform["op"], str),
        _number(f"{where}.transform.utc_offset", transform.get("utc_offset", 0.0)),
        tuple(_number(f"{where}.transform.boundaries", b) for b in boundaries),
    )
    inputs = _typed(f"{where}.inputs", data.get("inputs", ["general"]), list)
    data["inputs"] = tuple(_typed(f"{where}.inputs", name, str) for name in inputs)
    for key in ("hashed", "nullable"):
        data[key] = _typed(f"{where}.{key}", data.get(key, False), bool)
    data["fill"] = _number(f"{where}.fill", data.get("fill", 0.0))
    for key in ("mean", "std"):
        data[key] = None if data.get(key) is None else _number(f"{where}.{key}", data[key])
    return FieldSpec(**data)


def _field_json(spec: FieldSpec) -> dict[str, Any]:
    data = dataclasses.asdict(spec)
    data["transform"]["boundaries"] = list(spec.transform.boundaries)
    data["inputs"] = list(spec.inputs)
    return data


def _check(schema: FeatureSchema) -> None:
    tables, joins = {t.name for t in schema.tables}, {j.name for j in schema.joins}
    numbers = [t.number for t in schema.tables]
    if len(set(numbers)) != len(numbers) or any(not 0 <= n < MAX_TABLES for n in numbers):
        raise SchemaError(f"schema.tables: expected distinct numbers from 0 to {MAX_TABLES - 1}, got {quote(numbers)}")
    for table in schema.tables:
        if not 1 <= table.dim <= _MOST:
            raise SchemaError(f"schema.tables.{table.name}.dim: expected 1 to {_MOST}, got {table.dim}")
        if not (isinstance(table.name, str) and table.name.isidentifier()):
            raise SchemaError(f"schema.tables: expected a name of letters, digits and _, got {quote(table.name)}")
    for join in schema.joins:
        if not (isinstance(join.name, str) and join.name.isidentifier()):
            raise SchemaError(f"schema.joins: expected a name of letters, digits and _, got {quote(join.name)}")
    names = [f.name for f in schema.fields]
    if len(set(names)) != len(names):
        twice = next(name for name, after in pairwise(sorted(names)) if name == after)
        raise SchemaError(f"schema.fields: duplicate name {quote(twice)}")
    for spec in schema.fields:
        where = f"schema.fields.{spec.name}"
        for key, value, allowed in (
            ("kind", spec.kind, KINDS),
            ("side", spec.side, SIDES),
            ("pooling", spec.pooling, POOLINGS),
            ("transform", spec.transform.op, TRANSFORMS),
            *(("inputs", name, INPUTS) for name in spec.inputs),
        ):
            if value not in allowed:
                raise SchemaError(f"{where}.{key}: expected one of {', '.join(allowed)}, got {quote(value)}")
        if not spec.inputs:
            raise SchemaError(f"{where}.inputs: expected at least one of {', '.join(INPUTS)}, got none")
        if spec.kind == "dense" and spec.table is not None:
            raise SchemaError(f"{where}.table: a dense field has no table, got {quote(spec.table)}")
        if spec.kind != "dense" and spec.table not in tables:
            raise SchemaError(f"{where}.table: expected one of {', '.join(sorted(tables))}, got {quote(spec.table)}")
        if spec.join is not None and spec.join not in joins:
            raise SchemaError(
                f"{where}.join: expected one of {', '.join(sorted(joins)) or 'none'}, got {quote(spec.join)}"
            )
        if spec.max_len is not None and not 1 <= spec.max_len <= _MOST:
            raise SchemaError(f"{where}.max_len: expected 1 to {_MOST}, got {spec.max_len}")
        if not abs(spec.transform.utc_offset) <= _HOURS:
            got = spec.transform.utc_offset
            raise SchemaError(f"{where}.transform.utc_offset: expected hours from -{_HOURS} to {_HOURS}, got {got}")
        bounds = spec.transform.boundaries
        if spec.transform.op == "bucketize" and (not bounds or list(bounds) != sorted(set(bounds))):
            raise SchemaError(f"{where}.transform.boundaries: expected ascending numbers, got {quote(list(bounds))}")
        if spec.std is not None and spec.std <= 0:
            raise SchemaError(f"{where}.std: expected a positive number, got {spec.std}")
        if spec.kind == "dense" and not abs(spec.fill - (spec.mean or 0.0)) / (spec.std or 1.0) <= _FLOAT32:
            raise SchemaError(f"{where}.fill: expected one that is finite when it is normalised, got {spec.fill}")
    for domain in schema.domains:
        if isinstance(domain, bool) or not isinstance(domain, (int, str)):
            raise SchemaError(f"schema.domain.values: expected integers or strings, got {quote(domain)}")
        if isinstance(domain, int) and not 0 <= domain < MAX_ID:
            raise SchemaError(f"schema.domain.values: expected integers in [0, 2^48), got {domain}")
    if not schema.domains or len(set(schema.domains)) != len(schema.domains):
        raise SchemaError(f"schema.domain.values: expected distinct values, got {quote(list(schema.domains))}")
    if len({type(v) for v in schema.domains}) > 1:
        raise SchemaError("schema.domain.values: expected all integers or all strings, got both")
    if not schema.tasks:
        raise SchemaError("schema.tasks: expected at least one, got none")
    for task in schema.tasks:
        if not (isinstance(task, str) and task.isidentifier()):
            raise SchemaError(f"schema.tasks: expected a name of letters, digits and _, got {quote(task)}")


def _map(where: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SchemaError(f"{where}: expected a mapping, got {quote(value)}")
    return value


def _typed(where: str, value: object, kind: type[_T]) -> _T:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise SchemaError(f"{where}: expected {kind.__name__}, got {quote(value)}")
    return value


def _optional(where: str, value: object, kind: type[_T]) -> _T | None:
    return None if value is None else _typed(where, value, kind)


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
        raise SchemaError(f"{where}: expected a finite number, got {quote(value)}")
    return float(value)


def _keys(where: str, value: object, known: set[str], optional: set[str]) -> None:
    data = _map(where, value)
    unknown, missing = sorted(set(data) - known, key=str), sorted(known - optional - set(data))
    if unknown:
        raise SchemaError(f"{where}: unknown key {quote(unknown[0])}; known: {', '.join(sorted(known))}")
    if missing:
        raise SchemaError(f"{where}: missing key {missing[0]!r}")
