"""Columns → `Features`, checked: a plan made once for a schema and used for every batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, overload

from pepnet_infer.encode.domain import DomainCheck
from pepnet_infer.encode.features import Features
from pepnet_infer.encode.field_plan import FieldPlan, join_rule
from pepnet_infer.encode.row_errors import Fault, Faults, Mask
from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.feature_schema import FeatureSchema

if TYPE_CHECKING:
    from pepnet_infer.encode.columns import Columns
    from pepnet_infer.encode.side_table import SideTable


@dataclass(frozen=True)
class Encoded:
    """A batch of which some rows may be bad (bool [B]): what stands in those is of no use. `faults` says why."""

    features: Features
    bad: Mask
    faults: tuple[Fault, ...]


class Encoder:
    """Encodes batches of a schema; `sides` by the name of their join, `fields` as for `encode`.

    Safe to use from many threads. Raises SchemaError for an unknown field and for a side table that is not there.
    """

    def __init__(
        self, schema: FeatureSchema, sides: Mapping[str, SideTable], fields: Sequence[str] | None = None
    ) -> None:
        for name in fields or ():
            if name not in schema.field_by_name:
                raise SchemaError(f"expected fields of the schema ({', '.join(schema.field_by_name)}), got {name!r}")
        chosen = [spec for spec in schema.fields if fields is None or spec.name in fields]
        joined = {join.name: [spec.name for spec in chosen if spec.join == join.name] for join in schema.joins}
        joins = [join for join in schema.joins if joined[join.name]]
        for join in joins:
            if join.name not in sides:
                raise SchemaError(f"side table {join.name!r}: expected it for field {joined[join.name][0]!r}, got none")
        self._joins = [
            (join.name, sides[join.name].normalised, sides[join.name].reader(joined[join.name])) for join in joins
        ]
        raw = [spec for spec in chosen if spec.join is None]
        self._plan = FieldPlan(schema, raw, also=[join_rule(schema, join) for join in joins])
        # A part of the fields (the user side of a request, say) may come without the domain.
        checked = fields is None or any(spec.column == schema.domain_column for spec in raw)
        self._domain = DomainCheck(schema) if checked else None
        #: The columns a batch must have for these fields.
        self.columns = tuple(dict.fromkeys([*self._plan.columns, *([schema.domain_column] if checked else [])]))

    def encode(self, columns: Columns, *, normalise: bool = True) -> Features:
        """Returns the features of `columns`. Raises SchemaError for whatever is wrong with them."""
        return self._encode(columns, Faults(columns.num_rows), normalise)

    def encode_rows(self, columns: Columns, *, normalise: bool = True) -> Encoded:
        """Returns the features and which rows are bad. Raises SchemaError for what is wrong with a whole column."""
        faults = Faults(columns.num_rows, collect=True)
        features = self._encode(columns, faults, normalise)
        return Encoded(features, faults.bad, tuple(faults.found))

    def _encode(self, columns: Columns, faults: Faults, normalise: bool) -> Features:
        features, found = self._plan.encode(columns, faults, normalise)
        if self._domain is not None:
            self._domain.check(columns, faults)
        for (name, normalised, take), ids in zip(self._joins, found, strict=True):
            part = take(ids)
            if part.dense and normalised != normalise:
                wanted, got = ("normalised", "raw") if normalise else ("raw", "normalised")
                raise SchemaError(f"side table {name!r}: expected {wanted} dense values, got {got} ones")
            features.ids.update(part.ids)
            features.bags.update(part.bags)
            features.dense.update(part.dense)
        return features


@overload
def encode(
    schema: FeatureSchema,
    columns: Columns,
    sides: Mapping[str, SideTable],
    fields: Sequence[str] | None = None,
    *,
    bad_rows: Literal[False] = False,
    normalise: bool = True,
) -> Features: ...


@overload
def encode(
    schema: FeatureSchema,
    columns: Columns,
    sides: Mapping[str, SideTable],
    fields: Sequence[str] | None = None,
    *,
    bad_rows: Literal[True],
    normalise: bool = True,
) -> tuple[Features, Mask]: ...


def encode(
    schema: FeatureSchema,
    columns: Columns,
    sides: Mapping[str, SideTable],
    fields: Sequence[str] | None = None,
    *,
    bad_rows: bool = False,
    normalise: bool = True,
) -> Features | tuple[Features, Mask]:
    """Returns the features of `columns`, or of some `fields` only; `sides` by the name of their join.

    With `bad_rows` faults of single rows (null, range, NaN, unknown domain) do not raise: the result is (features,
    bad), bad bool [B], and what stands in a bad row is of no use. `normalise=False` leaves dense values transformed
    and filled only, to fit mean and std on. Who encodes more than once makes an `Encoder` once instead. Raises
    SchemaError.
    """
    encoder = Encoder(schema, sides, fields)
    if not bad_rows:
        return encoder.encode(columns, normalise=normalise)
    result = encoder.encode_rows(columns, normalise=normalise)
    return result.features, result.bad
