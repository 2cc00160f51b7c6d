"""The input domain of a narrow precision: the maximum magnitudes of the rows that it was measured on.

int8 rounds a row to steps of its largest value's 127th, so that one large value takes the others' digits, and its
error in the first sums grows with the row's norm. bf16 rounds each number by itself, but the error of its sums grows
with the norm as well. Rows whose values and norms are no larger than those of the rows that export measured are off by
no more than these were; the others are scored in float32.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from msgspec import Struct, structs

from pepnet_infer.schema.inputs import Inputs, Matrix
from pepnet_infer.schema.network_config import InputWidths
from pepnet_infer.validation import NotNegative

NAMES = ("general", "domain", "prior")
#: What a norm summed in float32 may be more than the same in float64.
_ROUNDING = 1.0 + 1e-4

Reals = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class RowLimits(Struct, frozen=True, forbid_unknown_fields=True):
    """Of one input's rows: the largest magnitude in each column, and the largest Euclidean norm."""

    largest: tuple[NotNegative, ...]
    norm: NotNegative


class InputDomain(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of the three inputs. A row outside of one is outside."""

    general: RowLimits
    domain: RowLimits
    prior: RowLimits

    @classmethod
    def of(cls, inputs: Inputs) -> InputDomain:
        """Returns the domain that just holds every row of `inputs`."""
        return cls(*(_limits(getattr(inputs, name)) for name in NAMES))

    def joined(self, other: InputDomain) -> InputDomain:
        """Returns the least domain that holds whatever one of the two holds."""
        both = ((getattr(self, name), getattr(other, name)) for name in NAMES)
        return InputDomain(*(RowLimits(tuple(map(max, a.largest, b.largest)), max(a.norm, b.norm)) for a, b in both))

    def scaled(self, columns: float, norms: float) -> InputDomain:
        """Returns the domain of rows `columns` times as large in each column, and `norms` times as long, in float32."""
        return InputDomain(*(_scaled(getattr(self, name), columns, norms) for name in NAMES))

    @property
    def widths(self) -> InputWidths:
        """The number of columns of each input."""
        return InputWidths(*(len(getattr(self, name).largest) for name in NAMES))

    def holds(self, inputs: Inputs) -> Mask:
        """Returns which rows [B] are inside; one with NaN is not."""
        inside = np.ones(inputs.num_rows, np.bool_)
        for name in NAMES:
            rows, limits = getattr(inputs, name).astype(np.float64), getattr(self, name)
            inside &= (np.abs(rows) <= np.array(limits.largest)).all(axis=1) & (_norms(rows) <= limits.norm)
        return inside

    def edge(self, inputs: Inputs) -> Inputs:
        """Returns as many rows as `inputs`, standard normal ones, that are as large as the domain holds.

        Columns are scaled by their limits, and rows to the norm. In every other row they are half as large, but for one
        column, each in turn, that is at its limit.
        """
        return inputs_of(_edge(getattr(inputs, name), getattr(self, name)) for name in NAMES)

    def to_json(self) -> dict[str, dict[str, object]]:
        """Returns plain JSON values."""
        return {name: structs.asdict(getattr(self, name)) for name in NAMES}

    def summary(self) -> dict[str, dict[str, float]]:
        """Returns the largest magnitude in any column, and the norm, of each input."""
        limits = {name: getattr(self, name) for name in NAMES}
        return {name: {"largest": max(one.largest, default=0.0), "norm": one.norm} for name, one in limits.items()}

    def to_native(self) -> tuple[list[tuple[float, ...]], list[float]]:
        """Returns what the kernels take: limits of columns and norms of general, domain and prior."""
        limits = [getattr(self, name) for name in NAMES]
        return [one.largest for one in limits], [one.norm for one in limits]


def inputs_of(matrices: Iterable[Matrix]) -> Inputs:
    """Returns general, domain and prior as `Inputs`."""
    general, domain, prior = matrices
    return Inputs(general, domain, prior)


def _limits(rows: Matrix) -> RowLimits:
    wide = rows.astype(np.float64)
    largest = np.abs(wide).max(axis=0, initial=0.0)
    return RowLimits(tuple(largest.tolist()), float(np.float32(_norms(wide).max(initial=0.0) * _ROUNDING)))


def _scaled(limits: RowLimits, columns: float, norms: float) -> RowLimits:
    largest = (np.array(limits.largest) * columns).astype(np.float32)
    return RowLimits(tuple(largest.tolist()), float(np.float32(limits.norm * norms)))


def _edge(rows: Matrix, limits: RowLimits) -> Matrix:
    largest = np.array(limits.largest)
    wide = np.clip(rows, -1.0, 1.0) * largest
    spiked = wide[1::2]
    spiked *= 0.5
    if len(largest):
        at = np.arange(len(spiked))
        columns = at % len(largest)
        spiked[at, columns] = np.where(at // len(largest) % 2, -1.0, 1.0) * largest[columns]
    norms = _norms(wide)
    times = np.divide(
        limits.norm / _ROUNDING**2, norms, out=np.ones_like(norms), where=norms > limits.norm / _ROUNDING**2
    )
    edge: Matrix = (wide * times[:, None]).astype(np.float32)
    return edge


def _norms(rows: Reals) -> Reals:
    norms: Reals = np.sqrt((rows**2).sum(axis=1))
    return norms
