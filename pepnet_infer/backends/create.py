"""The backends there are, and the one that runs a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pepnet_infer.errors import BackendError

if TYPE_CHECKING:
    from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.backends.protocol import Backend, Settings


def _native(bundle: Bundle, settings: Settings) -> Backend:
    from pepnet_infer.backends.native import NativeBackend

    return NativeBackend.load(bundle, settings)


def _onnxruntime(bundle: Bundle, settings: Settings) -> Backend:
    from pepnet_infer.backends.ort import OrtBackend

    return OrtBackend.load(bundle, settings)


def _cuda(bundle: Bundle, settings: Settings) -> Backend:
    from pepnet_infer.backends.cuda.backend import CudaBackend

    return CudaBackend.load(bundle, settings)


#: Backend name → what makes it.
BACKENDS: dict[str, Callable[[Bundle, Settings], Backend]] = {
    "native": _native,
    "onnxruntime": _onnxruntime,
    "cuda": _cuda,
}


def create_backend(
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

        return auto.load(bundle, settings, BACKENDS)
    if backend not in BACKENDS:
        there = ", ".join(["auto", *BACKENDS])
        raise BackendError(f"backend: expected one of {there}, got {backend!r}, which is not in this version")
    return BACKENDS[backend](bundle, settings)
