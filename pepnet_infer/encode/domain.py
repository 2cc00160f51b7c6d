"""The check that every row belongs to a domain the model was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pepnet_infer.encode.decode import distinct_texts, is_text
from pepnet_infer.encode.numeric import NullRule, integers, type_error
from pepnet_infer.encode.row_errors import Faults, Mask
from pepnet_infer.quoting import listed
from pepnet_infer.schema.feature_schema import FeatureSchema

if TYPE_CHECKING:
    from pepnet_infer.encode.arrays import PlainArray
    from pepnet_infer.encode.columns import Columns, Numbers


class DomainCheck:
    """Knows the domains of a schema: integers or strings."""

    def __init__(self, schema: FeatureSchema) -> None:
        self.column = schema.domain_column
        self._nulls = NullRule(self.column)
        self._known = frozenset(schema.domains)
        self._numbers: np.ndarray[tuple[int], np.dtype[np.uint64]] | None = None
        if isinstance(schema.domains[0], int):
            self._numbers = np.array(sorted(self._known), dtype=np.uint64)
        self._expected = f"a known domain ({listed(schema.domains)})"

    def check(self, columns: Columns, faults: Faults) -> None:
        """Adds a fault for nulls and for values that are no domain. Raises SchemaError for a column of other type."""
        numbers = columns.numbers(self.column) if self._numbers is not None else None
        if numbers is None or numbers.dtype.kind == "f" or self._unknown(numbers).any():
            self._look(columns[self.column], faults)

    def _unknown(self, values: Numbers) -> Mask:
        assert self._numbers is not None
        ids = values.astype(np.uint64)
        places = np.minimum(self._numbers.searchsorted(ids), len(self._numbers) - 1)
        unknown: Mask = self._numbers[places] != ids
        return unknown

    def _look(self, array: PlainArray, faults: Faults) -> None:
        if pa.types.is_null(array.type):
            self._nulls.missing(array, faults)
            return
        if self._numbers is not None:
            values, missing = integers(self._nulls, array, faults, "integer domains")
            unknown = self._unknown(values)
        elif is_text(array.type):
            missing = self._nulls.missing(array, faults)
            texts, positions = distinct_texts(self.column, array)
            unknown = np.array([text not in self._known for text in texts] or [False])[positions]
        else:
            raise type_error(self.column, "domains as strings", array)
        if missing is not None:
            unknown &= ~missing
        if unknown.any():
            faults.add(self.column, unknown, self._expected, lambda i: array[i].as_py())
