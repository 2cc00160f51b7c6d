"""The backends there are, on which devices, and the one that runs a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from msgspec import structs

from pepnet_infer.backends.protocol import GPU_PRECISIONS, PRECISIONS, Backend, Settings, read_options
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.errors import BackendError, ConfigError
from pepnet_infer.quoting import quote
from pepnet_infer.validation import Options

#: What `backend` may be, beside "auto".
BACKENDS = ("native", "onnxruntime")


@dataclass(frozen=True)
class Way:
    """A backend on one kind of device."""

    backend: str
    device: Literal["cpu", "cuda"]
    options: type[Options]
    #: what else than a precision or an option keeps it from running a bundle as asked, None when nothing does
    why_not: Callable[[Bundle, Settings], str | None]
    load: Callable[[Bundle, Settings], Backend]

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.backend if self.device == "cpu" else f"{self.backend} on {self.device}"

    def lacks(self, option: str) -> str:
        """Returns the message for an option that it does not have; "" for one that it has."""
        there = self.options.__struct_fields__
        return "" if option in there else f"options: {self.name} has {', '.join(there)}, got {quote(option)}"

    def refusal(self, bundle: Bundle, settings: Settings) -> str | None:
        """Returns why it cannot do what was asked, None where it can."""
        there = (PRECISIONS if self.device == "cpu" else GPU_PRECISIONS)[self.backend]
        if settings.precision not in there:
            return f"precision: {self.name} has {', '.join(there)}, got {settings.precision!r}"
        return next(filter(None, map(self.lacks, settings.options)), None) or self.why_not(bundle, settings)


def _ways(gpu: bool) -> Iterator[Way]:
    """Yields all ways in the order of preference, those on a GPU first, if they are wanted.

    On a GPU ONNX Runtime comes first, for the kernels there are experimental.
    """
    from pepnet_infer.backends import native, ort

    if gpu:
        from pepnet_infer.backends.cuda import backend as cuda

        yield Way("onnxruntime", "cuda", ort.OrtOptions, ort.why_not, ort.OrtBackend)
        yield Way("native", "cuda", cuda.CudaOptions, cuda.why_not, cuda.CudaBackend)
    yield Way("native", "cpu", native.NativeOptions, native.why_not, native.NativeBackend)
    yield Way("onnxruntime", "cpu", ort.OrtOptions, ort.why_not, ort.OrtBackend)


def plan(bundle: Bundle, backend: str, settings: Settings) -> list[tuple[Way, Settings]]:
    """Returns the ways that have what was asked for and run `bundle`, the one to take first, each with its settings.

    `Settings.why` says why. Raises BackendError with everyone's reason when there is none, ConfigError for an option
    that none has or that cannot have its value.
    """
    if backend not in ("auto", *BACKENDS):
        hint = ": ask for backend='native', device='cuda'" if backend == "cuda" else ""
        raise BackendError(f"backend: expected one of auto, {', '.join(BACKENDS)}, got {backend!r}{hint}")
    ways = [
        way
        for way in _ways(settings.kind != "cpu")
        if backend in ("auto", way.backend) and settings.kind in ("auto", way.device)
    ]
    for option in settings.options:
        if all(lacking := [way.lacks(option) for way in ways]):
            raise ConfigError("; ".join(lacking))
    for way in ways:  # a value that one of them refuses
        read_options(way.options, {name: value for name, value in settings.options.items() if not way.lacks(name)})
    chosen: list[tuple[Way, Settings]] = []
    passed: list[tuple[str, str]] = []  # name and reason
    for way in ways:
        here = structs.replace(settings, device=way.device if settings.kind == "auto" else settings.device)
        because, why = way.refusal(bundle, here), "asked for"
        if because is not None:
            passed.append((way.name, because))
            continue
        if "auto" in (backend, settings.kind):
            reasons = "; ".join(f"{name} cannot: {reason}" for name, reason in passed)
            why = f"auto: {way.name}: {reasons or 'it runs this model'}"
        chosen.append((way, structs.replace(here, why=why)))
    if chosen:
        return chosen
    if len(passed) == 1:
        raise BackendError(passed[0][1])
    reasons = "; ".join(f"{name}: {reason}" for name, reason in passed)
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
