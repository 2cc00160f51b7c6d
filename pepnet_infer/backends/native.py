"""The native backend: the whole dense part in fused C++ kernels, from the bundle's dense weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.backends.protocol import Settings, read_options
from pepnet_infer.bundle.accuracy import BUDGETS, MARGIN, Difference, excess
from pepnet_infer.bundle.bundle import DENSE, PARITY, Bundle
from pepnet_infer.bundle.golden_rows import Run, normal_inputs
from pepnet_infer.bundle.input_domain import InputDomain
from pepnet_infer.errors import BackendError, BundleError
from pepnet_infer.process.cpu import available_threads
from pepnet_infer.schema.feature_schema import INPUTS, FeatureSchema
from pepnet_infer.schema.inputs import Inputs, Matrix
from pepnet_infer.validation import Options, convert

_NEWER_ROWS = 512  # that int8 of newer weights is measured on
#: Sides whose columns are the same for every candidate of a request, unless the request says otherwise.
_REQUEST_SIDES = ("user", "context", "domain")


class NativeOptions(Options, frozen=True):
    """The backend's own options.

    spin: idle threads spin before they sleep. isa: the instruction set by name; "" is the environment's PEPNET_ISA or
    the widest usable one. unchecked: load bf16 or int8 though the export did not offer or not measure it, in order to
    measure it; where there is no domain, all rows are scored in that precision.
    """

    spin: bool = True
    isa: str = ""
    unchecked: bool = False


class NativeBackend:
    """A bundle's dense part, packed for one instruction set and precision. Safe to call from many threads.

    For one instruction set and precision, scores are the same bits however a batch is split and however many threads
    run it. NaN and infinities do as IEEE 754 says, in their own row alone.
    """

    name = "native"

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        """Packs the weights. Options: `NativeOptions`.

        Bundle, precision and device are those that `Way.refusal` let pass. Raises BackendError for an instruction set
        that is not there, and where int8 of newer weights is over its budget, ConfigError for an option, BundleError
        for weights that are not finite or do not fit the config.
        """
        options = read_options(NativeOptions, settings.options)
        choice = choose_isa(settings)
        network = bundle.network.to_native()
        domain = domain_of(bundle, settings.precision)
        limits = None if domain is None else domain.to_native()
        with BundleError.in_place_of(TypeError, ValueError, file=bundle.path / DENSE):
            #: The packed weights.
            self.model = _kernels.DenseModel(
                bundle.dense(),
                network,
                choice["isa"],
                settings.precision,
                columns_of_a_request(bundle.schema),
                domain=limits,
            )
        #: Fields that have to be the same in all rows for products to start from shared sums; none: there are no such.
        self._shared = fields_of(bundle.schema, self.model.shared)
        if settings.precision == "int8" and domain is not None and bundle.newer is not None:
            _check_newer(bundle, domain, self.model)
        self._threads, self._spin = settings.threads or available_threads(), options.spin
        packed = self.model.describe()
        self._description: dict[str, Any] = {
            "backend": self.name,
            "device": "cpu",
            "precision": settings.precision,
            **{name: packed[name] for name in ("isa", "how", "activation", "packed_bytes", "block_rows")},
            "threads": self._threads,
            "spin": self._spin,
            "why": f"{settings.why}; isa {packed['isa']}: {choice['why']}",
        }
        if domain is not None:
            self._description |= {"domain": domain.summary(), "wide_bytes": packed["wide_bytes"]}

    def run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Returns scores float32 [B, T] for inputs float32 [B, ·].

        Where a request gave once all columns that products start with, what they make of them is computed once: the
        scores are the same bits.
        """
        shared = bool(self._shared) and self._shared <= inputs.shared
        return self.model.run(inputs.general, inputs.domain, inputs.prior, self._threads, self._spin, shared)

    def run_matrices(self, general: Matrix, domain: Matrix, prior: Matrix) -> npt.NDArray[np.float32]:
        """Returns what `run` does of matrices nobody has looked at; TypeError or ValueError if it cannot take one."""
        return self.model.run(general, domain, prior, self._threads, self._spin)

    def describe(self) -> dict[str, Any]:
        """Returns backend, device, precision, isa, how, activation, packed_bytes, block_rows, threads, spin, why.

        bf16 and int8 also have domain (of each input the largest value and norm of the rows it is for), wide_bytes
        (memory of the weights in fp32, for the others) and outside_rows (how many others came).
        """
        if "domain" not in self._description:
            return dict(self._description)
        return {**self._description, "outside_rows": self.model.outside_rows}


def why_not(bundle: Bundle, settings: Settings) -> str | None:
    """Returns what keeps this backend from running `bundle` in a precision that it has, None when nothing does.

    The instruction set is left to `choose_isa`: one that was asked for and is not there is an error, and no reason to
    take another backend.
    """
    if settings.precision == "fp32" or settings.options.get("unchecked", False) is True:
        return None
    if settings.precision == "int8" and (refused := _int8_not_offered(bundle)) is not None:
        return refused
    if domain_of(bundle, settings.precision) is not None:
        return None
    return (
        f"precision: native {settings.precision} needs the domain that export measured, got none in "
        f"{bundle.path / PARITY}; export again"
    )


def choose_isa(settings: Settings) -> _kernels.Choice:
    """Returns isa, how and why of the kernels for a precision: option `isa`, else PEPNET_ISA, else the widest usable.

    Raises BackendError when what was asked for is not known or cannot run here.
    """
    with BackendError.in_place_of(ValueError):
        return _kernels.choose(settings.precision, str(settings.options.get("isa", "")))


@dataclass(frozen=True)
class Table:
    """The kernels of one instruction set in one precision; `why` says what they use, or what they lack here."""

    isa: str
    precision: str
    built: bool
    usable: bool
    how: str
    why: str

    def __str__(self) -> str:
        return f"native {self.precision} on {self.isa}"

    def load(self, bundle: Bundle) -> Run:
        """Returns what runs the bundle's dense part on this table, whatever PEPNET_ISA says and export has offered."""
        options = {"isa": self.isa, "unchecked": True, "spin": False}
        return NativeBackend(bundle, Settings(self.precision, options=options)).run

    def not_measured(self) -> dict[str, str]:
        """Returns the entry of a table that cannot run here."""
        return {"why": f"not measured: {self.why}"}


def tables(precision: str) -> list[Table]:
    """Returns all tables of a precision, those that this machine cannot run too, narrowest first."""
    return [Table(**isa) for isa in _kernels.isas() if isa["precision"] == precision]


def columns_of_a_request(schema: FeatureSchema) -> list[list[tuple[int, int]]]:
    """Returns the columns that a request gives once as a rule, of general, domain and prior: ranges, ascending.

    They are all domain columns, and those of user, context and domain fields.
    """
    found = []
    for name in INPUTS:
        columns: list[tuple[int, int]] = []
        for slot in schema.layout[name]:
            if name == "domain" or slot.field.side in _REQUEST_SIDES:
                begin, end = slot.offset, slot.offset + slot.width
                if columns and columns[-1][1] == begin:
                    begin = columns.pop()[0]
                columns.append((begin, end))
        found.append(columns)
    return found


def fields_of(schema: FeatureSchema, columns: Sequence[Sequence[tuple[int, int]]]) -> frozenset[str]:
    """Returns the fields that fill these columns of general, domain and prior."""
    return frozenset(
        slot.field.name
        for name, ranges in zip(INPUTS, columns, strict=True)
        for slot in schema.layout[name]
        if any(begin < slot.offset + slot.width and slot.offset < end for begin, end in ranges)
    )


def domain_of(bundle: Bundle, precision: str) -> InputDomain | None:
    """Returns the inputs that a precision was measured on; None for fp32, and where export did not measure them.

    Raises BundleError when they are not those of the bundle's network.
    """
    where = f"{bundle.path / PARITY}: native.{precision}.domain"
    given = bundle.native.get(precision, {}).get("domain")
    if given is None:
        return None
    domain: InputDomain = convert(where, given, InputDomain, BundleError)
    if domain.widths != bundle.config.inputs:
        raise BundleError(f"{where}: expected limits of {bundle.config.inputs}, got {domain.widths}")
    return domain


def rows_of_all_precisions(bundle: Bundle, count: int, seed: int) -> Inputs:
    """Returns `count` dense rows that no precision scores in fp32 instead: standard normal ones, scaled to its domain.

    Of the domains of bf16 and int8 one lies within the other.
    """
    rows = normal_inputs(bundle.config.inputs, count, seed)
    domains = [domain for precision in ("bf16", "int8") if (domain := domain_of(bundle, precision)) is not None]
    if not domains:
        return rows
    return min(domains, key=lambda domain: sum(limits.norm for limits in domain.limits)).edge(rows)


def _check_newer(bundle: Bundle, domain: InputDomain, model: _kernels.DenseModel) -> None:
    """Measures int8 of weights that came after the export, on rows up to the domain's edge, against fp32.

    Raises BackendError when it is over the budget that the export kept.
    """
    most = bundle.budgets.get("int8", BUDGETS["int8"])["max_abs"]
    rows = domain.edge(normal_inputs(bundle.config.inputs, _NEWER_ROWS, bundle.model_version % 1_000_003))
    matrices = (rows.general, rows.domain, rows.prior)
    off = MARGIN * Difference.of(model.run(*matrices), model.run(*matrices, wide=True)).max_abs
    if not off <= most:
        raise BackendError(
            f"precision: int8 of the weights of version {bundle.model_version} is off by up to {off:.2g} of fp32, "
            f"allowed {most:g}; load fp32 or bf16, or export a bundle."
        )


def _int8_not_offered(bundle: Bundle) -> str | None:
    """The export that measured int8 offers it or not: `parity.json` says whether it kept the manifest's budget."""
    where = str(bundle.path / PARITY)
    measured = bundle.native.get("int8")
    if measured is None:
        return f"precision: native has int8 where export measured it, got no native.int8 in {where}"
    if measured["offered"]:
        return None
    budget = bundle.budgets.get("int8", {})
    over = [f"{name} was not measured" for name in budget if measured.get(name) is None]
    over = excess(budget, {name: measured.get(name) for name in budget}) + over or [str(measured.get("why"))]
    return f"precision: native int8 is not offered by this bundle, see {where}: {', '.join(over)}"
