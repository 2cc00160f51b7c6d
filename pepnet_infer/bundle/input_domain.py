"""The input domain of a narrow precision: the maximum magnitudes of the rows that it was measured on.

int8 rounds a row to steps of its largest value's 127th, so that one large value takes the others' digits, and its
error in the first sums grows with the row's norm. bf16 rounds each number by itself, but the error of its sums grows
with the norm as well. Rows whose values and norms are no larger than those of the rows that export measured are off by
no more than these were; the others are scored in float32.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from pepnet_infer.schema.feature_schema import INPUTS
from pepnet_infer.schema.inputs import Inputs, Matrix
from pepnet_infer.schema.network_config import InputWidths
from pepnet_infer.validation import NotNegative

#: What a norm summed in float32 may be more than the same in float64.
_ROUNDING = 1.0 + 1e-4


class RowLimits(Struct, frozen=True, forbid_unknown_fields=True):
    """Of one input's rows: the largest magnitude in each column, and the largest Euclidean norm."""

    largest: tuple[NotNegative, ...]
    norm: NotNegative

    @classmethod
    def of(cls, rows: Matrix) -> RowLimits:
        """Returns the limits that every one of `rows` keeps."""
        wide = rows.astype(np.float64)
        largest = np.abs(wide).max(axis=0, initial=0.0)
        norm = np.linalg.norm(wide, axis=1).max(initial=0.0) * _ROUNDING
        return cls(tuple(largest.tolist()), float(np.float32(norm)))

    def joined(self, other: RowLimits) -> RowLimits:
        """Returns the larger of each two limits."""
        return RowLimits(tuple(map(max, self.largest, other.largest)), max(self.norm, other.norm))

    def scaled(self, columns: float, norms: float) -> RowLimits:
        """Returns limits of columns and norms so many times as large, in float32."""
        largest = (np.array(self.largest) * columns).astype(np.float32)
        return RowLimits(tuple(largest.tolist()), float(np.float32(self.norm * norms)))

    def edge(self, rows: Matrix) -> Matrix:
        """Returns one input's part of `InputDomain.edge`."""
        largest = np.array(self.largest)
        wide = np.clip(rows, -1.0, 1.0) * largest
        spiked = wide[1::2]
        spiked *= 0.5
        if len(largest):
            at = np.arange(len(spiked))
            columns = at % len(largest)
            spiked[at, columns] = np.where(at // len(largest) % 2, -1.0, 1.0) * largest[columns]
        norms, most = np.linalg.norm(wide, axis=1), self.norm / _ROUNDING**2
        times = np.divide(most, norms, out=np.ones_like(norms), where=norms > most)
        edge: Matrix = (wide * times[:, None]).astype(np.float32)
        return edge


class InputDomain(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of the three inputs. A row outside of one is outside, and so is one with NaN."""

    general: RowLimits
    domain: RowLimits
    prior: RowLimits

    @property
    def limits(self) -> tuple[RowLimits, RowLimits, RowLimits]:
        """Those of general, domain and prior."""
        return self.general, self.domain, self.prior

    @classmethod
    def of(cls, inputs: Inputs) -> InputDomain:
        """Returns the domain that just holds every row of `inputs`."""
        return cls(*map(RowLimits.of, inputs.matrices))

    def joined(self, other: InputDomain) -> InputDomain:
        """Returns the least domain that holds whatever one of the two holds."""
        return InputDomain(*map(RowLimits.joined, self.limits, other.limits))

    def scaled(self, columns: float, norms: float) -> InputDomain:
        """Returns the domain of rows `columns` times as large in each column, and `norms` times as long, in float32."""
        return InputDomain(*(one.scaled(columns, norms) for one in self.limits))

    @property
    def widths(self) -> InputWidths:
        """The number of columns of each input."""
        return InputWidths(*(len(one.largest) for one in self.limits))

    def edge(self, inputs: Inputs) -> Inputs:
        """Returns as many rows as `inputs`, standard normal ones, that are as large as the domain holds.

        Columns are scaled by their limits, and rows to the norm. In every other row they are half as large, but for one
        column, each in turn, that is at its limit.
        """
        return Inputs(*map(RowLimits.edge, self.limits, inputs.matrices))

    def summary(self) -> dict[str, dict[str, float]]:
        """Returns the largest magnitude in any column, and the norm, of each input."""
        return {
            name: {"largest": max(one.largest, default=0.0), "norm": one.norm}
            for name, one in zip(INPUTS, self.limits, strict=True)
        }

    def to_native(self) -> tuple[list[tuple[float, ...]], list[float]]:
        """Returns what the kernels take: limits of columns and norms of general, domain and prior."""
        return [one.largest for one in self.limits], [one.norm for one in self.limits]
