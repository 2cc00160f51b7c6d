"""Computes the input domains of bf16 and int8: the limits within which they are measured and used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pepnet_infer.backends.native import tables, why_not
from pepnet_infer.backends.protocol import Settings
from pepnet_infer.bundle.accuracy import MARGIN, Budget, Difference
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.bundle.input_domain import InputDomain, RowLimits
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.inputs import Inputs

#: How much larger than the rows of requests bf16's domain may be: the largest of these within the budget is taken.
SCALES = (1.1, 1.25, 1.5, 2.0, 3.0, 4.0)
#: Of the rows of requests, how many of the longest may be left out of bf16's domain.
SHARES = (0.0001, 0.001, 0.01)
_SLOW = "scalar"
#: Standard normal rows are in the domain where their norms are at most this times those of requests.
_AS_LONG = 1.1
#: Other rows of the same kind are somewhat larger. Of rows with 1,400 standard normal columns, 60 % have a value beyond
#: the largest of the 1,000 to 10,000 rows that export sees of each column, 1.4 in a thousand one beyond 1.5 times that,
#: and none of 60,000 one beyond twice. One row outside costs a batch as much as all weights once more, in float32.
_MORE_IN_COLUMNS, _MORE_IN_NORMS = 2.0, 1.02


def request_domain(
    schema: FeatureSchema, rows: Inputs, normal: Inputs, largest: Mapping[str, npt.NDArray[np.float64]]
) -> InputDomain:
    """Returns the domain of what requests give: `rows` of the schema, and every row of the tables.

    largest: table → largest magnitude in each column [dim] of its rows. A sum of a bag may be larger: `rows` have some.
    Standard normal rows belong to it where they are no longer than those of requests, as in a preset: its weights are
    made for them.
    """
    domain = InputDomain.of(rows)
    known = []
    for name, width in schema.widths.items():
        columns = np.zeros(width)
        for slot in schema.layout[name]:
            table = slot.field.table
            if table is not None and table in largest and slot.field.pooling != "sum":
                columns[slot.offset : slot.offset + slot.width] = largest[table]
        known.append(RowLimits(tuple(columns.tolist()), 0.0))
    domain = domain.joined(InputDomain(*known))
    drawn = InputDomain.of(normal)
    pairs = zip(drawn.limits, domain.limits, strict=True)
    as_long = all(one.norm <= _AS_LONG * other.norm for one, other in pairs)
    return (domain.joined(drawn) if as_long else domain).scaled(_MORE_IN_COLUMNS, _MORE_IN_NORMS)


def bf16_domain(bundle: Bundle, domain: InputDomain, rows: Inputs, budget: Budget, seed: int) -> InputDomain:
    """Returns the domain of bf16, near to the `domain` of requests, `rows` being some of them.

    It is `domain`, times the largest of `SCALES` up to which bf16 keeps its budget with `MARGIN`. Where bf16 is over
    its budget by more than `MARGIN` in `domain` itself, the longest rows are left out: as few of `SHARES` as will do,
    or the last, for bf16 is always offered, and its figures then say by how much it is over. Differences are those
    from fp32 on as many rows at the edge as `rows`, of every instruction set of this machine but the scalar one, whose
    rounding is that of AVX2.
    """
    if rows.num_rows == 0 or why_not(bundle, Settings()) is not None:
        return domain
    bare = replace(bundle, parity={})  # no row is outside of what is not known yet
    normal = normal_inputs(bundle.config.inputs, rows.num_rows, seed)
    narrow = {table.isa: table.load(bare) for table in tables("bf16") if table.usable and table.isa != _SLOW}
    wide = {table.isa: table.load(bare) for table in tables("fp32") if table.isa in narrow}

    def over(tried: InputDomain) -> float:
        """How many times the budget bf16 is off at the edge."""
        edge, most = tried.edge(normal), 0.0
        for isa, run in narrow.items():
            off = Difference.of(run(edge), wide[isa](edge))
            most = max(most, off.max_abs / budget["max_abs"], off.rms / budget["rms"])
        return most

    if over(domain) > MARGIN:
        shorter = [_without_longest(domain, rows, share) for share in SHARES]
        return next((tried for tried in shorter if over(tried) <= MARGIN), shorter[-1])
    best = domain
    for times in SCALES:
        if MARGIN * over(scaled := domain.scaled(times, times)) > 1.0:
            break
        best = scaled
    return best


def _without_longest(domain: InputDomain, rows: Inputs, share: float) -> InputDomain:
    """Returns `domain` with norms that all but a share of the rows have in each input."""
    limits = []
    for limit, matrix in zip(domain.limits, rows.matrices, strict=True):
        norms = np.sqrt((matrix.astype(np.float64) ** 2).sum(axis=1))
        most = float(np.float32(np.quantile(norms, 1.0 - share, method="higher")))
        limits.append(RowLimits(limit.largest, min(limit.norm, most)))
    return InputDomain(*limits)
