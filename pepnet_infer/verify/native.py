"""Verification of the native kernels against float64, for every instruction set and precision of this machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pepnet_infer.backends.native_tables import PRECISIONS, Table, not_measured, tables, why_none
from pepnet_infer.bundle.accuracy import NATIVE_TOLERANCE
from pepnet_infer.bundle.bundle import DENSE, Bundle
from pepnet_infer.bundle.golden_rows import Golden, Run

Recheck = Callable[[Table, Run, float], dict[str, Any]]

#: What a precision that is over its budget may be off by, in multiples of the largest difference export saw: on the
#: same rows with another instruction set, and on other rows.
_OTHER_ISA, _OTHER_ROWS = 1.5, 3.0


def verify_native(bundle: Bundle, golden: Golden, recheck: Recheck | None) -> dict[str, Any]:
    """Returns precision → instruction set → allowed {golden, fresh}, golden {rows, max_abs}, fresh.

    `fresh` is what `recheck` returns, null without one.
    An instruction set this machine lacks, and a precision the bundle does not offer, have only `why`; so has a model
    that the kernels cannot run. Raises BundleError when a score is off by more than is allowed, or two ways to split a
    batch give different bits.
    """
    refused = why_none(bundle)
    if refused is not None:
        return {"why": refused}
    report: dict[str, Any] = {}
    for precision in PRECISIONS:
        if precision == "int8" and (why := _int8_refused(bundle)):
            report[precision] = {"why": why}
            continue
        allowed = Allowed.of(bundle, precision)
        report[precision] = {
            table.isa: _table(bundle, table, golden, recheck, allowed) if table.usable else not_measured(table)
            for table in tables(precision)
        }
    return report


@dataclass(frozen=True)
class Allowed:
    """The most a score may be off on golden and on fresh rows; infinity where differences are reported only."""

    golden: float
    fresh: float

    @classmethod
    def of(cls, bundle: Bundle, precision: str) -> Allowed:
        """Returns the contract's bound for fp32, else what the manifest's budget and the export's figures allow.

        Golden rows are some of those that export measured: they are held to the budget that export kept. Fresh rows
        are others, and among as many others the largest difference may well be twice as large with nothing wrong.
        """
        if precision == "fp32":
            return cls(NATIVE_TOLERANCE, NATIVE_TOLERANCE)
        measured: float | None = bundle.native.get(precision, {}).get("max_abs")
        if measured is None:
            return cls(math.inf, math.inf)
        budget = bundle.budgets.get(precision, {}).get("max_abs", 0.0)
        golden = budget if measured <= budget else _OTHER_ISA * measured
        return cls(golden, max(budget, _OTHER_ROWS * measured))

    def to_json(self) -> dict[str, float | None]:
        """Returns golden and fresh, null where any number is allowed."""
        return {name: None if math.isinf(most) else most for name, most in vars(self).items()}


def _int8_refused(bundle: Bundle) -> str | None:
    entry = bundle.native.get("int8")
    if entry is None:
        return "not measured: export did not measure it"
    return None if entry["offered"] else f"not measured: not offered: {entry['why']}"


def _table(bundle: Bundle, table: Table, golden: Golden, recheck: Recheck | None, allowed: Allowed) -> dict[str, Any]:
    run = table.load(bundle)
    where = f"{table} against {bundle.path / DENSE}"
    worst = golden.compare(run, where, bundle.tasks, allowed.golden, same_bits=True)
    return {
        "allowed": allowed.to_json(),
        "golden": {"rows": len(golden.scores), "max_abs": worst},
        "fresh": None if recheck is None else recheck(table, run, allowed.fresh),
    }
