"""One request: a user, a context and N candidates, split so that the user's columns are encoded once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.encoder import DomainCheck, Encoder
from pepnet_infer.encode.features import Features
from pepnet_infer.encode.row_errors import RAISED
from pepnet_infer.encode.side_table import SideTable
from pepnet_infer.errors import SchemaError
from pepnet_infer.quoting import name_list
from pepnet_infer.schema.feature_schema import FeatureSchema


class RequestReader:
    """Reads requests of a schema. Safe to use from many threads."""

    def __init__(self, schema: FeatureSchema, sides: Mapping[str, SideTable]) -> None:
        self._schema, self._sides = schema, sides
        self._domain = DomainCheck(schema)
        joins = {join.name: join.column for join in schema.joins}
        #: field → the column of the request that decides it
        self._column = {f.name: joins[f.join] if f.join is not None else f.column for f in schema.fields}
        self._splits: dict[frozenset[str], tuple[Encoder, Encoder]] = {}

    def read(
        self,
        user: Mapping[str, object],
        items: object,
        domain: object,
        context: Mapping[str, object] | None = None,
        strict: bool = False,
    ) -> tuple[Features, Features]:
        """Returns (features of 1 row, of all fields that the request gives once; the others' features of N rows).

        `user` and `context` hold one value a column (a list for a bag), `items` is a batch of N rows; each column of
        the schema stands in one of them, except the domain's, whose value is `domain`. Others are ignored, or an
        error with `strict`. Raises SchemaError.
        """
        once = self._once(user, {} if context is None else context, domain, strict)
        if isinstance(items, Mapping):
            for name in once:
                if name in items:
                    expected = "it once in a request"
                    raise SchemaError(within="items", column=name, expected=expected, got="it here as well")
        shared, per_item = self._split(frozenset(once))
        columns = read_columns({name: _column(value) for name, value in once.items()}, list(once))
        single = shared.encode(columns)
        if not shared.checks_domain:
            self._domain.check(columns, RAISED)
        try:
            return single, per_item.encode(read_columns(items, per_item.columns, strict))
        except SchemaError as error:
            raise SchemaError.of(error, within="items") from error

    def _once(
        self, user: Mapping[str, object], context: Mapping[str, object], domain: object, strict: bool
    ) -> dict[str, object]:
        once: dict[str, object] = {}
        given = {"user": user, "context": context, "domain": {self._schema.domain_column: domain}}
        for place, values in given.items():
            if not isinstance(values, Mapping):
                expected = "a dict with one value a column"
                raise SchemaError(within=place, expected=expected, got=type(values).__name__)
            for name, value in values.items():
                if name in once:
                    raise SchemaError(within=place, column=name, expected="it once in a request", got="it twice")
                if name in self._schema.columns:
                    once[name] = value
                elif strict:
                    expected = f"one of the columns {name_list(self._schema.columns)}"
                    raise SchemaError(within=place, column=name, expected=expected, got="another")
        return once

    def _split(self, once: frozenset[str]) -> tuple[Encoder, Encoder]:
        found = self._splits.get(once)
        if found is None:
            shared = [name for name, column in self._column.items() if column in once]
            others = [name for name, column in self._column.items() if column not in once]
            if not others:
                expected = "at least one column of the schema"
                raise SchemaError(within="items", expected=expected, got="all of them as single values")
            found = Encoder(self._schema, self._sides, shared), Encoder(self._schema, self._sides, others)
            self._splits[once] = found  # two threads may both make it: the same thing twice
        return found


def _column(value: object) -> object:
    """Returns a column of one value: as an array where it is a number, which is read the quick way."""
    return np.array([value]) if isinstance(value, (int, float, np.integer, np.floating)) else [value]
