"""What a precision may cost: the budgets in a bundle's manifest, and what its export measured against them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pepnet_infer.checked import Positive, convert
from pepnet_infer.errors import BundleError
from pepnet_infer.quoting import quote
from pepnet_infer.storage.document import typed

Budget = dict[str, float]

#: The worst difference seen times this is what a precision is taken to be off by at most within its domain. In int8,
#: of 300,000 rows of the demo's domain the worst was off by 1.34 times the worst of the 20,000 that export draws, of
#: 14,000 of preset kuaishou by 1.11 times that of 2,300.
MARGIN = 1.5

#: Precision → the most that scores may differ from float64, as a root mean square and at all, and the most that the
#: AUC of a task may lose when rows are ordered by them. fp32 has no budget but `golden.NATIVE_TOLERANCE`.
BUDGETS: dict[str, Budget] = {
    "bf16": {"rms": 2e-3, "max_abs": 1e-2, "delta_auc": 1e-4},
    "int8": {"max_abs": 0.1, "delta_auc": 1e-3},
}


def read_budgets(where: str, manifest: Mapping[str, Any]) -> dict[str, Budget]:
    """Returns precision → budget of a manifest; none in one written before there were any. Raises BundleError."""
    if "precisions" not in manifest:
        return {}
    precisions = typed(where, manifest, "precisions", dict)
    for precision, budget in precisions.items():
        if precision not in BUDGETS:
            raise BundleError(f"{where}: precisions: expected {' or '.join(BUDGETS)}, got {quote(precision)}")
        check_budget(f"{where}: precisions", precision, budget)
    return precisions


def check_budget(where: str, precision: str, budget: object) -> None:
    """Raises BundleError unless `budget` has the figures of its precision, each a finite number above 0."""
    expected = list(BUDGETS[precision])
    if not isinstance(budget, dict) or sorted(budget) != sorted(expected):
        raise BundleError(f"{where}: {precision}: expected {', '.join(expected)}, got {quote(budget)}")
    for name, most in budget.items():
        convert(f"{where}: {precision}: {name}", most, Positive, BundleError)


def excess(budget: Mapping[str, float], figures: Mapping[str, Any]) -> list[str]:
    """Returns what in `figures` is over `budget`, in words; a figure that could not be had is over none."""
    return [
        f"{name} {figures[name]:.2g}, allowed {most:g}"
        for name, most in budget.items()
        if figures[name] is not None and not figures[name] <= most
    ]
