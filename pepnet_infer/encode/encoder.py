"""Columns → `Features`, checked: a plan made once for a schema and used for every batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from pepnet_infer._kernels import NumberColumns
from pepnet_infer.encode import decode
from pepnet_infer.encode.column_rule import ColumnRule
from pepnet_infer.encode.columns import Columns, Numbers
from pepnet_infer.encode.features import Bag, Features
from pepnet_infer.encode.row_errors import RAISED, Mask, RowErrors
from pepnet_infer.errors import SchemaError
from pepnet_infer.quoting import name_list
from pepnet_infer.schema.feature_schema import FeatureSchema, FieldSpec, JoinSpec
from pepnet_infer.schema.ids import MISSING_KEY, Keys, make_keys

_QUICK = ("none", "log1p")  # transforms of dense values that are done with many columns at a time


@dataclass(frozen=True)
class Encoded:
    """The `features` of a batch of which rows may be `bad` (bool [B]), whose values mean nothing. `errors` say why."""

    features: Features
    bad: Mask
    errors: tuple[SchemaError, ...]


class Side(Protocol):
    """A side table, as far as encoding knows it."""

    def reader(self, fields: Collection[str]) -> Callable[[Keys], Features]:
        """Returns the function from ids uint64 [B] to B rows of some `fields`."""


class Encoder:
    """Encodes batches of a schema, or of some of its `fields`; `sides` by the name of their join.

    Safe to use from many threads. Raises SchemaError for an unknown field, for a side table that is not there, and for
    a dense field without mean and std; with mean 0 and std 1 its values are transformed and filled only.
    """

    def __init__(self, schema: FeatureSchema, sides: Mapping[str, Side], fields: Sequence[str] | None = None) -> None:
        for name in fields or ():
            if name not in schema.field_by_name:
                raise SchemaError(f"expected fields of the schema ({', '.join(schema.field_by_name)}), got {name!r}")
        chosen = [spec for spec in schema.fields if fields is None or spec.name in fields]
        joined = {join.name: [spec.name for spec in chosen if spec.join == join.name] for join in schema.joins}
        joins = [join for join in schema.joins if joined[join.name]]
        for join in joins:
            if join.name not in sides:
                raise SchemaError(f"side table {join.name!r}: expected it for field {joined[join.name][0]!r}, got none")
        self._joins = [sides[join.name].reader(joined[join.name]) for join in joins]
        raw = [spec for spec in chosen if spec.join is None]
        self._plan = FieldPlan(schema, raw, also=[join_rule(schema, join) for join in joins])
        # A part of the fields (the user side of a request, say) may come without the domain.
        checked = fields is None or any(spec.column == schema.domain_column for spec in raw)
        self._domain = DomainCheck(schema) if checked else None
        self.checks_domain = checked  #: a join alone reads the domain column unchecked
        #: The columns a batch must have for these fields.
        self.columns = tuple(dict.fromkeys([*self._plan.columns, *([schema.domain_column] if checked else [])]))

    def encode(self, columns: Columns) -> Features:
        """Returns the features of `columns`. Raises SchemaError for the first error found in them."""
        return self._encode(columns, RAISED)

    def encode_rows(self, columns: Columns) -> Encoded:
        """Returns the features and which rows are bad: those with a null, a value out of range, NaN, an unknown domain.

        Raises SchemaError for what is wrong with a whole column.
        """
        errors = RowErrors(columns.num_rows, collect=True)
        features = self._encode(columns, errors)
        return Encoded(features, errors.bad, tuple(errors.found))

    def _encode(self, columns: Columns, errors: RowErrors) -> Features:
        features, found = self._plan.encode(columns, errors)
        if self._domain is not None:
            self._domain.check(columns, errors)
        for take, ids in zip(self._joins, found, strict=True):
            part = take(ids)
            features.ids.update(part.ids)
            features.bags.update(part.bags)
            features.dense.update(part.dense)
        return features


class FieldPlan:
    """How fields that are read from the same columns become features; `lenient` in side tables (see `ColumnRule`).

    `also` are further columns to decode to ids, for joins; `encode` returns them beside the features.
    """

    def __init__(
        self, schema: FeatureSchema, specs: Sequence[FieldSpec], lenient: bool = False, also: Sequence[ColumnRule] = ()
    ) -> None:
        rules: dict[ColumnRule, int] = {}  # rule → its place; fields and joins with equal rules share the work
        uses: list[tuple[int, int]] = []  # of each id field and join: the place of its rule, the number of its table
        self._bags: list[tuple[FieldSpec, int, ColumnRule]] = []
        dense = [spec for spec in specs if spec.table is None]
        self._dense = [(spec, ColumnRule.of(spec, lenient), scale_of(spec)) for spec in dense]
        self._names: list[str] = []
        for spec in specs:
            if spec.table is None:
                continue
            number, rule = schema.table_by_name[spec.table].number, ColumnRule.of(spec, lenient)
            if spec.kind == "bag":
                self._bags.append((spec, number, rule))
            else:
                self._names.append(spec.name)
                uses.append((rules.setdefault(rule, len(rules)), number))
        uses += [(rules.setdefault(rule, len(rules)), 0) for rule in also]  # without a table: ids as they are
        self._rules, self._uses = list(rules), uses
        columns = [rule.column for rule in rules] + [spec.column for spec in specs]
        self.columns = tuple(dict.fromkeys(columns))
        self._id_columns = [rule.column if rule.transform.op == "none" else None for rule in rules]
        self._dense_columns = [spec.column if spec.transform.op in _QUICK else None for spec in dense]
        self._dense_names = [spec.name for spec in dense]
        logs = [(spec.transform.op == "log1p", scale) for spec, _, scale in self._dense]
        self._reader = NumberColumns(len(self._rules), self._uses, logs)

    def encode(self, columns: Columns, errors: RowErrors) -> tuple[Features, list[Keys]]:
        """Returns (features, ids of `also`, MISSING_KEY where there is none)."""
        rows = columns.num_rows
        ids = [None if name is None else columns.numbers(name) for name in self._id_columns]
        numbers = [None if name is None else columns.numbers(name) for name in self._dense_columns]
        # What is left out has something to it: a type to look at, values to hash, to fill in, or to refuse.
        keys, values, left_ids, left_dense = self._reader.read(ids, numbers, rows)
        for place in left_ids:
            rule = self._rules[place]
            found, missing = decode.decode_ids(rule, columns[rule.column], errors)
            for at, (used, table) in enumerate(self._uses):
                if used == place:
                    keys[at] = make_keys(table, found)
                    if missing is not None:
                        keys[at][missing] = MISSING_KEY
        bags: dict[str, Bag] = {}
        for spec, number, rule in self._bags:
            inside, offsets = decode.decode_bag(rule, spec, columns[spec.column], errors)
            bags[spec.name] = Bag(make_keys(number, inside), offsets)
        for place in left_dense:
            spec, rule, scale = self._dense[place]
            values[place] = decode.decode_dense(rule, spec, columns[spec.column], errors, scale)
        dense = dict(zip(self._dense_names, values, strict=True))
        return Features(rows, dict(zip(self._names, keys, strict=False)), bags, dense), keys[len(self._names) :]


def join_rule(schema: FeatureSchema, join: JoinSpec) -> ColumnRule:
    """Returns how the column of a join becomes ids: as in the id field that reads the same column.

    Without such a field, or if it transforms the column, it holds integers in [0, 2^48) without nulls.
    """
    for spec in schema.fields:
        if spec.kind == "id" and spec.join is None and spec.column == join.column and spec.transform.op == "none":
            return ColumnRule.of(spec)
    return ColumnRule(join.column)


def scale_of(spec: FieldSpec) -> tuple[float, float]:
    """Returns (mean, std) of a dense field. Raises SchemaError where it has none."""
    if spec.mean is None or spec.std is None:
        where = f"schema.fields.{spec.name}"
        raise SchemaError(f"{where}: expected mean and std, got none: train with the schema, or state them")
    return spec.mean, spec.std


class DomainCheck:
    """Knows the domains of a schema: integers or strings."""

    def __init__(self, schema: FeatureSchema) -> None:
        self.column = schema.domain_column
        self._rule = ColumnRule(self.column)
        self._known = frozenset(schema.domains)
        #: uint64 ascending; None where domains are strings
        self._numbers = np.array(sorted(self._known), np.uint64) if isinstance(schema.domains[0], int) else None
        self._expected = f"a known domain ({name_list(schema.domains)})"

    def check(self, columns: Columns, errors: RowErrors) -> None:
        """Adds an error for nulls and for values that are no domain. Raises SchemaError for a column of other type."""
        numbers = None if self._numbers is None else columns.numbers(self.column)
        if numbers is not None and numbers.dtype.kind != "f" and not self._unknown(numbers).any():
            return
        array = columns[self.column]
        if pa.types.is_null(array.type):
            self._rule.missing(array, errors)
            return
        if self._numbers is not None:
            values, missing = decode.integers(self._rule, array, errors, "integer domains")
            unknown = self._unknown(values)
        elif decode.is_text(array.type):
            missing = self._rule.missing(array, errors)
            texts, positions = decode.distinct_texts(array)
            unknown = np.array([text not in self._known for text in texts] or [False])[positions]
        else:
            raise decode.type_error(self.column, "domains as strings", array)
        if missing is not None:
            unknown &= ~missing
        if unknown.any():
            errors.add(self.column, unknown, self._expected, array)

    def _unknown(self, values: Numbers) -> Mask:
        assert self._numbers is not None
        ids = values.astype(np.uint64)
        places = np.minimum(self._numbers.searchsorted(ids), len(self._numbers) - 1)
        unknown: Mask = self._numbers[places] != ids
        return unknown
