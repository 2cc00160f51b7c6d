"""Where a column may have nulls, and the error where it may not."""

from __future__ import annotations

from dataclasses import dataclass

from pepnet_infer.encode.arrow_validation import PlainArray
from pepnet_infer.encode.row_errors import Mask, RowErrors


@dataclass(frozen=True)
class NullRule:
    """What a column may leave out.

    `lenient` is what side tables are read by: nulls always, NaN as null, and floats that hold whole numbers.
    """

    column: str
    nullable: bool = False
    lenient: bool = False

    def missing(self, array: PlainArray, errors: RowErrors) -> Mask | None:
        """Returns where `array` is null, None if nowhere; an error where nulls are not allowed."""
        if not array.null_count:
            return None
        nulls: Mask = array.is_null().to_numpy(zero_copy_only=False)
        if not (self.nullable or self.lenient):
            errors.add(self.column, nulls, "no nulls")
        return nulls
