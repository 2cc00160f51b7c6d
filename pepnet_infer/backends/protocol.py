"""What a backend is, and what some can do beside; the settings that one is made with.

Whether a backend can do more than `Backend` says is asked by `isinstance` of a protocol here, once, when it is put to
use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol, TypeVar, runtime_checkable

from msgspec import Meta

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.encode.features import Features
from pepnet_infer.errors import ConfigError
from pepnet_infer.quoting import quote
from pepnet_infer.rows.protocols import Rows, RowSource
from pepnet_infer.schema.inputs import Inputs, Matrix
from pepnet_infer.validation import Options, check_option, kinds_of

_DEVICE = re.compile(r"(cpu|auto|cuda)(?::([0-9]{1,5}))?")
#: More is a mistake (a count of rows, say), and would be threads started for nothing.
MAX_THREADS = 1024


_Options = TypeVar("_Options", bound=Options)


class Backend(Protocol):
    """Runs the dense part: three matrices in, one score per row and task out. Safe to call from many threads."""

    name: str

    def run(self, inputs: Inputs) -> Matrix:
        """Returns scores float32 [B, T] for general [B, ·], domain [B, ·] and prior [B, ·]; B may be 0."""

    def describe(self) -> dict[str, Any]:
        """Returns backend, device, precision, threads and why it was chosen, as plain JSON values."""


@runtime_checkable
class MatrixBackend(Backend, Protocol):
    """A backend that checks matrices of a caller by itself, in less time than it takes in Python."""

    def run_matrices(self, general: Matrix, domain: Matrix, prior: Matrix) -> Matrix:
        """Returns what `run` does of matrices nobody has looked at; TypeError or ValueError if it cannot take one."""


class FeatureScorer(Protocol):
    """Features → scores, with rows on the backend's device."""

    #: of `Beside`, when what it serves was put in place
    epoch: int

    def score(self, features: Features, shared: Features | None = None) -> tuple[Rows, dict[str, int], dict[str, int]]:
        """Returns scores float32 [B, T] and, by field, how many ids are unknown and how many unavailable."""


@runtime_checkable
class DeviceBackend(Backend, Protocol):
    """A backend on a device with a memory of its own."""

    def run_on_device(self, general: object, domain: object, prior: object, out: object, stream: int) -> int:
        """Puts a call on arrays of the device into a stream there, and returns the number of rows at once."""

    def feature_scorer(self, bundle: Bundle, rows: RowSource) -> FeatureScorer | None:
        """Returns what scores features of `bundle` with rows on the device, None where they stay on the host.

        Raises BackendError when they cannot be there.
        """


class Settings(Options, frozen=True):
    """What the caller asked of a backend.

    threads: None means that the backend decides, and says so in `describe()`. device: "cpu", "cuda" (the first GPU),
    "cuda:N" or, until one is chosen, "auto". options: the backend's own; an unknown one is an error. why: why this
    backend runs on this device. Raises ConfigError for what no backend takes.
    """

    precision: str = "fp32"
    threads: Annotated[int, Meta(ge=1, le=MAX_THREADS)] | None = None
    device: str = "cpu"
    options: Mapping[str, Any] = {}
    why: str = "asked for"

    def __post_init__(self) -> None:
        super().__post_init__()
        found = _DEVICE.fullmatch(self.device)
        if found is None or (found[2] is not None and found[1] != "cuda"):
            raise ConfigError(f"device: expected cpu, cuda, cuda:N or auto, got {quote(self.device)}")

    @property
    def kind(self) -> Literal["cpu", "cuda", "auto"]:
        """The kind of device."""
        return "cpu" if self.device == "cpu" else "auto" if self.device == "auto" else "cuda"

    @property
    def gpu(self) -> int:
        """Which GPU, from 0."""
        return int(self.device.partition(":")[2] or 0)


def read_options(kind: type[_Options], given: Mapping[str, Any]) -> _Options:
    """Returns a backend's own options, all of which it has. Raises ConfigError for one that cannot have its value."""
    kinds = kinds_of(kind)
    return kind(**{name: check_option(f"options.{name}", value, kinds[name]) for name, value in given.items()})


#: Backend name → the precisions it has on a CPU, whatever the bundle and the machine.
PRECISIONS: dict[str, tuple[str, ...]] = {
    "native": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32",),
}
#: The same on a GPU.
GPU_PRECISIONS: dict[str, tuple[str, ...]] = {
    "native": ("fp32", "bf16"),
    "onnxruntime": ("fp32",),
}
