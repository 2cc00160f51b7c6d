"""What runs the dense part of the model, behind one small protocol.

A new backend is one module with a class that has `name`, `run` and `describe`, and one line each in `BACKENDS` and
`PRECISIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from msgspec import Meta

from pepnet_infer.checked import Options
from pepnet_infer.errors import BackendError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pepnet_infer.assemble import Inputs
    from pepnet_infer.bundle import Bundle


#: More is a mistake (a count of rows, say), and would be threads started for nothing.
MAX_THREADS = 1024


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
    literally: raises BackendError for a backend, provider, precision, thread count or option that is not there.
    """
    settings = Settings(precision, threads, provider, options or {})
    if backend == "auto":
        from pepnet_infer.backends import auto

        return auto.load(bundle, settings)
    if backend not in BACKENDS:
        there = ", ".join(["auto", *BACKENDS])
        raise BackendError(f"backend: expected one of {there}, got {backend!r}, which is not in this version")
    return BACKENDS[backend](bundle, settings)
