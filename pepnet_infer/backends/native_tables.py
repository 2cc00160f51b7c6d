"""The native backend on a bundle, for every instruction set and precision of the machine at hand: to be measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pepnet_infer import _kernels
from pepnet_infer.backends.create import create_backend
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.golden_rows import Run


@dataclass(frozen=True)
class Table:
    """The kernels of one instruction set in one precision; `why` says what they use, or what they lack here."""

    isa: str
    precision: str
    usable: bool
    how: str
    why: str

    def __str__(self) -> str:
        return f"native {self.precision} on {self.isa}"

    def load(self, bundle: Bundle) -> Run:
        """Returns what runs the bundle's dense part on this table, whatever PEPNET_ISA says and export has offered."""
        options = {"isa": self.isa, "unchecked": True, "spin": False}
        return create_backend(bundle, "native", self.precision, options=options).run

    def not_measured(self) -> dict[str, str]:
        """Returns the entry of a table that cannot run here."""
        return {"why": f"not measured: {self.why}"}


def tables(precision: str) -> Iterator[Table]:
    """Yields all tables of a precision, those that this machine cannot run too, narrowest first."""
    for isa in _kernels.isas():
        if isa["precision"] == precision:
            yield Table(isa["isa"], precision, isa["usable"], isa["how"], isa["why"])
