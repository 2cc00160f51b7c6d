"""From features to the three dense inputs: ids looked up, bags pooled, dense values written, each once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from pepnet_infer.encode.features import Features
from pepnet_infer.errors import SchemaError
from pepnet_infer.rows.protocols import DefaultCounts, RowRequest, RowSource
from pepnet_infer.schema.feature_schema import INPUTS, FeatureSchema
from pepnet_infer.schema.inputs import Inputs, Matrix

#: Fields with ids that got the default row, and how many of them did.
Defaulted = list[tuple[str, DefaultCounts]]


class _Place(NamedTuple):
    """Columns of one of the inputs."""

    input: str
    columns: slice


class Assembler:
    """Fills the inputs of `schema` from a row source. Holds no state of a batch: any thread may call it."""

    def __init__(self, schema: FeatureSchema, rows: RowSource) -> None:
        places: dict[str, list[_Place]] = {spec.name: [] for spec in schema.fields}
        for name in INPUTS:
            for slot in schema.layout[name]:
                places[slot.field.name].append(_Place(name, slice(slot.offset, slot.offset + slot.width)))
        #: each field, where it is computed, and where that is copied to
        self._plans = {spec.name: (spec, places[spec.name][0], places[spec.name][1:]) for spec in schema.fields}
        self._widths = schema.widths
        self._ask = rows.answer

    def inputs(self, features: Features, shared: Features | None = None) -> Inputs:
        """Returns the inputs of `features`, which hold every field of the schema but for those of `shared`.

        shared: the fields of one row that every row of `features` has. They are looked up once and their columns
        repeated, so that many rows do not multiply the work on a long history; their unknown and unavailable ids count
        once. Raises SchemaError naming the field that is missing, StoreError when the row source cannot answer.
        """
        if shared is not None:
            return self._inputs_ranked(shared, features)
        check_fields(self._plans, names(features), ())
        matrices = self._empty(features.num_rows)
        unknown, unavailable = by_field(self._fill(self._plans, features, matrices))
        return Inputs(*matrices.values(), unknown=unknown, unavailable=unavailable)

    def _inputs_ranked(self, shared: Features, per_item: Features) -> Inputs:
        if shared.num_rows != 1:
            raise SchemaError(f"shared features: expected 1 row, got {shared.num_rows}")
        ours, theirs = names(shared), names(per_item)
        check_fields(self._plans, ours, theirs)
        matrices, single = self._empty(per_item.num_rows), self._empty(1)
        defaults = self._fill(ours, shared, single)
        plans = [self._plans[name] for name in ours]
        for input, columns in _runs(place for _, first, others in plans for place in (first, *others)):
            matrices[input][:, columns] = single[input][:, columns]
        defaults += self._fill(theirs, per_item, matrices)
        unknown, unavailable = by_field(defaults)
        return Inputs(*matrices.values(), unknown=unknown, unavailable=unavailable, shared=frozenset(ours))

    def _empty(self, rows: int) -> dict[str, Matrix]:
        return {name: np.empty((rows, self._widths[name]), np.float32) for name in INPUTS}

    def _fill(self, fields: Iterable[str], features: Features, matrices: dict[str, Matrix]) -> Defaulted:
        requests: list[RowRequest] = []
        copies = []
        for name in fields:
            spec, (input, columns), others = self._plans[name]
            out = matrices[input][:, columns]
            if spec.table is None:
                out[:, 0] = features.dense[name]
            elif spec.kind == "id":
                requests.append(RowRequest(name, spec.table, features.ids[name], out))
            else:
                bag = features.bags[name]
                requests.append(RowRequest(name, spec.table, bag.keys, out, bag.offsets, spec.pooling))
            if others:
                copies.append((out, others))
        counts = self._ask(requests) if requests else []
        for out, others in copies:
            for input, columns in others:
                matrices[input][:, columns] = out
        return [(request.field, count) for request, count in zip(requests, counts, strict=True) if any(count)]


def by_field(defaults: Defaulted) -> tuple[dict[str, int], dict[str, int]]:
    """Returns unknown and unavailable ids by field, fields without one left out."""
    unknown: dict[str, int] = {}
    unavailable: dict[str, int] = {}
    for name, counts in defaults:
        if counts.unknown:
            unknown[name] = unknown.get(name, 0) + counts.unknown
        if counts.unavailable:
            unavailable[name] = unavailable.get(name, 0) + counts.unavailable
    return unknown, unavailable


def check_fields(fields: Mapping[str, object], one: Iterable[str], other: Iterable[str]) -> None:
    """Raises SchemaError unless `one` and `other` together name all `fields`, each once."""
    given = [*one, *other]
    if len(given) == len(fields) and fields.keys() == set(given):
        return
    missing, extra = sorted(fields.keys() - set(given)), sorted(set(given) - fields.keys())
    if missing:
        expected = "every field of the schema"
        raise SchemaError(within="features", column=missing[0], expected=expected, got="none of that name")
    if extra:
        raise SchemaError(within="features", column=extra[0], expected="fields of the schema", got="another")
    twice = next(name for name in given if given.count(name) > 1)
    raise SchemaError(within="features", column=twice, expected="each field once", got="it on both sides")


def names(features: Features) -> list[str]:
    """Returns the fields that `features` has."""
    return [*features.ids, *features.bags, *features.dense]


def _runs(places: Iterable[_Place]) -> list[_Place]:
    """Joins places that touch: one broadcast over 400 columns is cheaper than ten over 40."""
    runs: list[_Place] = []
    for place in sorted(places, key=lambda place: (place.input, place.columns.start)):
        last = runs[-1] if runs else None
        if last is not None and last.input == place.input and last.columns.stop == place.columns.start:
            runs[-1] = _Place(last.input, slice(last.columns.start, place.columns.stop))
        else:
            runs.append(place)
    return runs
