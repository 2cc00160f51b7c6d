"""What runs the dense part of the model, behind one small protocol.

A new backend is one module with a class that has `name`, `run` and `describe`, a set of options of its own, and one
line each in `BACKENDS` and `PRECISIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

from msgspec import Meta

from pepnet_infer.checked import Options, check_option, kinds_of
from pepnet_infer.errors import BackendError, ConfigError
from pepnet_infer.quoting import quote

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pepnet_infer.assemble import Inputs
    from pepnet_infer.bundle import Bundle


#: More is a mistake (a count of rows, say), and would be threads started for nothing.
MAX_THREADS = 1024


_Options = TypeVar("_Options", bound=Options)


class Backend(Protocol):
    """Runs the dense part: three matrices in, one score per row and task out. Safe to call from many threads."""

    name: str

    def run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Returns scores float32 [B, T] for general [B, ·], domain [B, ·] and prior [B, ·]; B may be 0."""
        ...

    def describe(self) -> dict[str, Any]:
        """Returns backend, provider, precision, threads and why it was chosen, as plain JSON values."""
        ...


class Settings(Options, frozen=True):
    """What the caller asked of a backend. None means that the backend decides, and says so in `describe()`.

    Raises ConfigError for what no backend takes.
    """

    precision: str = "fp32"
    threads: Annotated[int, Meta(ge=1, le=MAX_THREADS)] | None = None
    provider: str | None = None
    options: Mapping[str, Any] = {}  # the backend's own; an unknown one is an error
    why: str = "asked for"
    auto: bool = False  # "auto" chose backend and provider, and `why` says so


def read_options(backend: str, kind: type[_Options], given: Mapping[str, Any]) -> _Options:
    """Returns a backend's own options. Raises ConfigError for one that it does not have or that cannot have a value."""
    lacking = lacks(backend, kind, given)
    if lacking is not None:
        raise ConfigError(lacking)
    kinds = kinds_of(kind)
    return kind(**{name: check_option(f"options.{name}", value, kinds[name]) for name, value in given.items()})


def lacks(backend: str, kind: type[Options], given: Mapping[str, Any]) -> str | None:
    """Returns which of the options that were given a backend does not have, None when it has all of them."""
    there = kind.__struct_fields__
    return next((f"options: {backend} has {', '.join(there)}, got {quote(n)}" for n in given if n not in there), None)


def _native(bundle: Bundle, settings: Settings) -> Backend:
    from pepnet_infer.backends.native import NativeBackend

    return NativeBackend.load(bundle, settings)


def _onnxruntime(bundle: Bundle, settings: Settings) -> Backend:
    from pepnet_infer.backends.ort import OrtBackend

    return OrtBackend.load(bundle, settings)


def _cuda(bundle: Bundle, settings: Settings) -> Backend:
    from pepnet_infer.backends.cuda import CudaBackend

    return CudaBackend.load(bundle, settings)


#: Backend name → what makes it.
BACKENDS: dict[str, Callable[[Bundle, Settings], Backend]] = {
    "native": _native,
    "onnxruntime": _onnxruntime,
    "cuda": _cuda,
}
#: Backend name → the precisions it has, whatever the bundle and the machine.
PRECISIONS: dict[str, tuple[str, ...]] = {
    "native": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32",),
    "cuda": ("fp32", "bf16"),
}


def create(
    bundle: Bundle,
    backend: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    provider: str | None = None,
    options: Mapping[str, object] | None = None,
) -> Backend:
    """Returns the backend that was asked for, loaded with the bundle's dense part.

    "auto" takes a GPU that works (unless `provider` is "cpu"), else the native kernels, else ONNX Runtime, and of these
    the first that has what else was asked for; `describe()["why"]` says what it took and why. Everything else is taken
    literally: raises BackendError for a backend, provider or precision that is not there, ConfigError for threads and
    options that cannot be, or that no such backend has.
    """
    settings = Settings(precision, threads, provider, options or {})
    if backend == "auto":
        from pepnet_infer.backends import auto

        return auto.load(bundle, settings)
    if backend not in BACKENDS:
        there = ", ".join(["auto", *BACKENDS])
        raise BackendError(f"backend: expected one of {there}, got {backend!r}, which is not in this version")
    return BACKENDS[backend](bundle, settings)
