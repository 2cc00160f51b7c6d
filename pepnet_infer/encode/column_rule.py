"""How a column is read: whether nulls are refused, and what its values stand for."""

from __future__ import annotations

from dataclasses import dataclass

from pepnet_infer.encode.arrow_validation import PlainArray
from pepnet_infer.encode.row_errors import Mask, RowErrors
from pepnet_infer.schema.feature_schema import FieldSpec, Transform

_AS_IT_IS = Transform()


@dataclass(frozen=True)
class ColumnRule:
    """How a column is read. Id fields with equal rules share the work.

    `lenient` is what side tables are read by: nulls always, NaN as null, and floats that hold whole numbers.
    """

    column: str
    nullable: bool = False
    lenient: bool = False
    hashed: bool = False
    transform: Transform = _AS_IT_IS

    @classmethod
    def of(cls, spec: FieldSpec, lenient: bool = False) -> ColumnRule:
        """Returns the rule of a field; `lenient` in side tables."""
        return cls(spec.column, spec.nullable, lenient, spec.hashed, spec.transform)

    def missing(self, array: PlainArray, errors: RowErrors) -> Mask | None:
        """Returns where `array` is null, None if nowhere; an error where nulls are not allowed."""
        if not array.null_count:
            return None
        nulls: Mask = array.is_null().to_numpy(zero_copy_only=False)
        if not (self.nullable or self.lenient):
            errors.add(self.column, nulls, "no nulls")
        return nulls
