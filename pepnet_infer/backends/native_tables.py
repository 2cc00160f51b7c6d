"""The native backend on a bundle, for every instruction set and precision of the machine at hand: to be measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pepnet_infer import _kernels
from pepnet_infer.backends import native
from pepnet_infer.backends.create import create_backend
from pepnet_infer.backends.protocol import Settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pepnet_infer.bundle.bundle import Bundle
    from pepnet_infer.schema.inputs import Inputs

PRECISIONS = ("fp32", "bf16", "int8")


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

    def load(self, bundle: Bundle) -> Callable[[Inputs], npt.NDArray[np.float32]]:
        """Returns what runs the bundle's dense part on this table, whatever PEPNET_ISA says and export has offered."""
        options = {"isa": self.isa, "unchecked": True, "spin": False}
        return create_backend(bundle, "native", self.precision, options=options).run


def why_none(bundle: Bundle) -> str | None:
    """Returns why the native backend cannot run `bundle` on any table, None when it can."""
    return native.why_not(bundle, Settings())


def tables(precision: str) -> Iterator[Table]:
    """Yields all tables of a precision, those that this machine cannot run too, narrowest first."""
    for isa in _kernels.isas():
        if isa["precision"] == precision:
            yield Table(isa["isa"], precision, isa["usable"], isa["how"], isa["why"])


def not_measured(table: Table) -> dict[str, Any]:
    """Returns the entry of a table that cannot run here."""
    return {"why": f"not measured: {table.why}"}
