"""What "auto" takes: a GPU that works, else the native kernels, else ONNX Runtime. Decided before any is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec import structs

from pepnet_infer.backends import native, ort
from pepnet_infer.backends.protocol import Backend, Settings, lacks, read_options
from pepnet_infer.checked import Options
from pepnet_infer.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from pepnet_infer.bundle.bundle import Bundle


Loader = Callable[["Bundle", Settings], Backend]


@dataclass(frozen=True)
class Plan:
    """A backend by name and what to load it with; `settings.why` says why."""

    backend: str
    settings: Settings


def load(bundle: Bundle, settings: Settings, backends: Mapping[str, Loader]) -> Backend:
    """Returns the backend that `plan` names, loaded by the one of `backends` under that name.

    A GPU that does not start is passed over, and the reason kept. Raises what `plan` and the backend raise.
    """
    taken = plan(bundle, settings)
    if taken.settings.provider == "cuda" and settings.provider is None:
        try:
            return backends[taken.backend](bundle, taken.settings)
        except BackendError as error:
            taken = _on_cpu(bundle, settings, f"no GPU: {error}")
    return backends[taken.backend](bundle, taken.settings)


def plan(bundle: Bundle, settings: Settings) -> Plan:
    """Returns the first backend that has what was asked for and runs `bundle`.

    Without a provider asked for, a GPU comes first where ONNX Runtime can use one. Raises BackendError with every
    backend's reason when none is left, ConfigError for an option that none has or that cannot have its value.
    """
    _check_options(settings.options)
    if settings.provider is None and ort.why_not(settings) is None:
        no_gpu = ort.no_cuda_because()
        if no_gpu is None:
            return _plan("onnxruntime", "cuda", settings, "a GPU is there, which native cannot use")
        return _on_cpu(bundle, settings, f"no GPU: {no_gpu}")
    return _on_cpu(bundle, settings, "")


def _check_options(given: Mapping[str, Any]) -> None:
    kinds: dict[str, type[Options]] = {"native": native.NativeOptions, "onnxruntime": ort.OrtOptions}
    known = {name for kind in kinds.values() for name in kind.__struct_fields__}
    if not known.issuperset(given):
        raise ConfigError("; ".join(filter(None, (lacks(name, kind, given) for name, kind in kinds.items()))))
    for name, kind in kinds.items():
        read_options(name, kind, {key: value for key, value in given.items() if key in kind.__struct_fields__})


def _on_cpu(bundle: Bundle, settings: Settings, no_gpu: str) -> Plan:
    not_native, not_ort = native.why_not(bundle, settings), ort.why_not(settings)
    also = f"; {no_gpu}" if no_gpu else ""
    if not_native is None:
        because = f"onnxruntime cannot: {not_ort}" if not_ort is not None else "its kernels run this model"
        return _plan("native", "cpu", settings, because + also)
    if not_ort is None:
        return _plan("onnxruntime", settings.provider or "cpu", settings, f"native cannot: {not_native}{also}")
    raise BackendError(f"backend: auto found none for this bundle: native: {not_native}; onnxruntime: {not_ort}")


def _plan(backend: str, provider: str, settings: Settings, why: str) -> Plan:
    return Plan(backend, structs.replace(settings, provider=provider, auto=True, why=f"auto: {backend}: {why}"))
