"""The backends there are, on which devices, and the one that runs a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from msgspec import structs

from pepnet_infer.backends.protocol import Backend, Settings, lacks, read_options
from pepnet_infer.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from pepnet_infer.bundle.bundle import Bundle
    from pepnet_infer.validation import Options

#: What `backend` may be, beside "auto".
BACKENDS = ("native", "onnxruntime")


@dataclass(frozen=True)
class Way:
    """A backend on one kind of device."""

    backend: str
    device: Literal["cpu", "cuda"]
    options: type[Options]
    #: what keeps it from running a bundle as asked, None when nothing does
    why_not: Callable[[Bundle, Settings], str | None]
    load: Callable[[Bundle, Settings], Backend]

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.backend if self.device == "cpu" else f"{self.backend} on {self.device}"


def _ways(gpu: bool) -> Iterator[Way]:
    """Yields all ways in the order of preference, those on a GPU first, if they are wanted.

    On a GPU ONNX Runtime comes first, for the kernels there are experimental.
    """
    from pepnet_infer.backends import native, ort

    if gpu:
        from pepnet_infer.backends.cuda import backend as cuda

        yield Way("onnxruntime", "cuda", ort.OrtOptions, ort.why_not, ort.OrtBackend.load)
        yield Way("native", "cuda", cuda.CudaOptions, cuda.why_not, cuda.CudaBackend.load)
    yield Way("native", "cpu", native.NativeOptions, native.why_not, native.NativeBackend.load)
    yield Way("onnxruntime", "cpu", ort.OrtOptions, ort.why_not, ort.OrtBackend.load)


def plan(bundle: Bundle, backend: str, settings: Settings) -> list[tuple[Way, Settings]]:
    """Returns the ways that have what was asked for and run `bundle`, the one to take first, each with its settings.

    `Settings.why` says why. Raises BackendError with everyone's reason when there is none, ConfigError for an option
    that none has or that cannot have its value.
    """
    named = None if backend == "auto" else backend
    if named is not None and named not in BACKENDS:
        hint = ": ask for backend='native', device='cuda'" if named == "cuda" else ""
        raise BackendError(f"backend: expected one of auto, {', '.join(BACKENDS)}, got {backend!r}{hint}")
    ways = [
        way
        for way in _ways(settings.kind != "cpu")
        if named in (None, way.backend) and settings.kind in ("auto", way.device)
    ]
    _check_options(ways, settings.options)
    chosen: list[tuple[Way, Settings]] = []
    passed: list[tuple[Way, str]] = []
    for way in ways:
        on = way.device if settings.kind == "auto" else settings.device
        here = structs.replace(settings, device=on)
        because = way.why_not(bundle, here)
        if because is not None:
            passed.append((way, because))
            continue
        chosen.append((way, structs.replace(here, why=_why(named, settings, way, passed))))
    if chosen:
        return chosen
    if len(passed) == 1:
        raise BackendError(passed[0][1])
    reasons = "; ".join(f"{way.name}: {because}" for way, because in passed)
    raise BackendError(f"backend: auto found none for this bundle: {reasons}")


def create_backend(
    bundle: Bundle,
    backend: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    device: str = "cpu",
    options: Mapping[str, object] | None = None,
) -> Backend:
    """Returns the backend that was asked for, loaded with the bundle's dense part.

    backend "auto" takes on the CPU the native kernels, else ONNX Runtime, on a GPU ONNX Runtime, else the native
    kernels, and of these the first that has what else was asked for. device "auto" takes a GPU that works, else the
    CPU. `describe()["why"]` says what was taken and why. Everything else is taken literally: raises BackendError for a
    backend, device or precision that is not there, ConfigError for a device, threads and options that cannot be, or
    that no such backend has.
    """
    settings = Settings(precision, threads, device, options or {})
    why = ""
    for way, given in plan(bundle, backend, settings):
        if way.device == "cpu" or settings.kind != "auto":
            return way.load(bundle, structs.replace(given, why=given.why + why))
        try:
            return way.load(bundle, given)
        except BackendError as error:  # a GPU that does not start is passed over where nobody insists on it
            why += f"; {way.name}: {error}"
    raise BackendError(f"backend: auto found none for this bundle: {why.removeprefix('; ')}")


def _why(named: str | None, settings: Settings, way: Way, passed: list[tuple[Way, str]]) -> str:
    if named is not None and settings.kind != "auto":
        return "asked for"
    reasons = [f"{other.name} cannot: {because}" for other, because in passed]
    return f"auto: {way.name}: {'; '.join(reasons) or 'it runs this model'}"


def _check_options(ways: list[Way], given: Mapping[str, Any]) -> None:
    """Raises ConfigError for an option that none of the ways has, and for a value that one of them refuses."""
    known = {name for way in ways for name in way.options.__struct_fields__}
    if not known.issuperset(given):
        kinds = {way.name: way.options for way in ways}
        raise ConfigError("; ".join(filter(None, (lacks(name, kind, given) for name, kind in kinds.items()))))
    for way in ways:
        there = way.options.__struct_fields__
        read_options(way.name, way.options, {key: value for key, value in given.items() if key in there})
