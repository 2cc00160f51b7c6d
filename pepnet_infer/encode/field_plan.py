"""How the fields that are read from the same columns become features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pepnet_infer._kernels import NumberColumns
from pepnet_infer.encode import decode
from pepnet_infer.encode.decode import IdRule
from pepnet_infer.encode.features import Bag, Features
from pepnet_infer.encode.numeric import NullRule
from pepnet_infer.encode.row_errors import Faults, Mask
from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.feature_schema import FeatureSchema, FieldSpec, JoinSpec
from pepnet_infer.schema.ids import MISSING_KEY, Keys, make_keys

if TYPE_CHECKING:
    from pepnet_infer.encode.columns import Columns


_QUICK = ("none", "log1p")  # transforms of dense values that are done with many columns at a time


class _Use(NamedTuple):
    """A field of ids, or a join: the place of its rule, and the number of its table."""

    place: int
    table: int


class FieldPlan:
    """How fields that are read from the same columns become features; `messy` in side tables (see `NullRule`).

    `also` are further columns to decode to ids, for joins; `encode` returns them beside the features.
    """

    def __init__(
        self, schema: FeatureSchema, specs: Sequence[FieldSpec], messy: bool = False, also: Sequence[IdRule] = ()
    ) -> None:
        self._messy = messy
        rules: dict[IdRule, int] = {}  # rule → its place; fields and joins with equal rules share the work
        uses: list[_Use] = []
        self._bags: list[tuple[FieldSpec, int, IdRule]] = []
        self._dense = [spec for spec in specs if spec.table is None]
        self._names: list[str] = []
        for spec in specs:
            if spec.table is None:
                continue
            number, rule = schema.table_by_name[spec.table].number, IdRule.of(spec, messy)
            if spec.kind == "bag":
                self._bags.append((spec, number, rule))
            else:
                self._names.append(spec.name)
                uses.append(_Use(rules.setdefault(rule, len(rules)), number))
        uses += [_Use(rules.setdefault(rule, len(rules)), 0) for rule in also]  # without a table: ids as they are
        self._rules, self._uses = list(rules), uses
        columns = [rule.nulls.column for rule in rules] + [spec.column for spec in specs]
        self.columns = tuple(dict.fromkeys(columns))
        self._id_columns = [rule.nulls.column if rule.transform.op == "none" else None for rule in rules]
        self._dense_columns = [spec.column if spec.transform.op in _QUICK else None for spec in self._dense]
        self._dense_names = [spec.name for spec in self._dense]
        self._unfitted = [spec for spec in self._dense if spec.mean is None or spec.std is None]
        self._raw = self._reader(lambda _: None)
        self._normalised = None if self._unfitted else self._reader(_scale)

    def encode(self, columns: Columns, faults: Faults, normalise: bool) -> tuple[Features, list[Keys]]:
        """Returns (features, ids of `also`, MISSING_KEY where there is none)."""
        rows = columns.num_rows
        ids = [None if name is None else columns.numbers(name) for name in self._id_columns]
        numbers = [None if name is None else columns.numbers(name) for name in self._dense_columns]
        reader = self._normalised if normalise and self._normalised is not None else self._raw
        # What is left out has something to it: a type to look at, values to hash, to fill in, or to refuse.
        keys, values, left_ids, left_dense = reader.read(ids, numbers, rows)
        for place in left_ids:
            rule = self._rules[place]
            found, missing = decode.decode_ids(rule, columns[rule.nulls.column], faults)
            for at, use in enumerate(self._uses):
                if use.place == place:
                    keys[at] = _keys(use.table, found, missing)
        bags: dict[str, Bag] = {}
        for spec, number, rule in self._bags:
            inside, offsets = decode.decode_bag(rule, spec, columns[spec.column], faults)
            bags[spec.name] = Bag(make_keys(number, inside), offsets)
        if normalise and self._unfitted:
            _scale(self._unfitted[0])
        for place in left_dense:
            spec = self._dense[place]
            scale = _scale(spec) if normalise else None
            values[place] = decode.decode_dense(spec, columns[spec.column], faults, scale, self._messy)
        dense = dict(zip(self._dense_names, values, strict=True))
        return Features(rows, dict(zip(self._names, keys, strict=False)), bags, dense), keys[len(self._names) :]

    def _reader(self, scale: Callable[[FieldSpec], tuple[float, float] | None]) -> NumberColumns:
        dense = [(spec.transform.op == "log1p", scale(spec)) for spec in self._dense]
        return NumberColumns(len(self._rules), self._uses, dense)


def join_rule(schema: FeatureSchema, join: JoinSpec) -> IdRule:
    """Returns how the column of a join becomes ids: as in the id field that reads the same column.

    Without such a field, or if it transforms the column, it holds integers in [0, 2^48) without nulls.
    """
    for spec in schema.fields:
        if spec.kind == "id" and spec.join is None and spec.column == join.column and spec.transform.op == "none":
            return IdRule.of(spec)
    return IdRule(NullRule(join.column))


def _keys(table: int, ids: decode.Ids, missing: Mask | None) -> Keys:
    keys = make_keys(table, ids)
    if missing is not None:
        keys[missing] = MISSING_KEY
    return keys


def _scale(spec: FieldSpec) -> tuple[float, float]:
    if spec.mean is None or spec.std is None:
        where = f"schema.fields.{spec.name}"
        raise SchemaError(f"{where}: expected mean and std, got none: fit them on rows encoded with normalise=False")
    return spec.mean, spec.std
