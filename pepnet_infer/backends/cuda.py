"""The cuda backend: the whole dense part in fused kernels of our own on an NVIDIA GPU. Experimental: docs/gpu.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.backends import PRECISIONS, Settings
from pepnet_infer.backends.cuda_driver import no_gpu_because
from pepnet_infer.backends.cuda_library import CudaLibrary, CudaModel, library_path, open_library
from pepnet_infer.bundle import DENSE
from pepnet_infer.errors import BackendError, BundleError

if TYPE_CHECKING:
    from pepnet_infer.assemble import Inputs
    from pepnet_infer.bundle import Bundle

PROVIDERS = ("cuda",)
#: Option → its type. device: which GPU, from 0. graphs: launches are recorded once for each bucket of rows.
OPTIONS: dict[str, type] = {"device": int, "graphs": bool}
_LEAST = (8, 0)  # compute capability: bf16 on the tensor cores, asynchronous copies


class CudaBackend:
    """A bundle's dense part on one GPU. Safe to call from many threads.

    Batches run in buckets of 1, 8, 32, 64, 128, 256, 512, 1024 or 2048 rows, larger ones in pieces; a row's scores do
    not depend on the others of its batch.
    """

    name = "cuda"

    def __init__(self, model: CudaModel, description: dict[str, Any]) -> None:
        self._model = model
        self._description = description

    @classmethod
    def load(cls, bundle: Bundle, settings: Settings) -> CudaBackend:
        """Packs the weights onto the GPU. Options: see `OPTIONS`.

        Raises BackendError for a bundle it cannot run, a precision, provider or option that is not there, a package
        without libpepnet_cuda and a machine without a GPU, BundleError for weights that do not fit the config.
        """
        refused = why_not(bundle, settings)
        if refused is not None:
            raise BackendError(refused)
        library, device = _library(), settings.options.get("device", 0)
        assert isinstance(device, int)
        found = _device(library, device)
        graphs, bf16 = bool(settings.options.get("graphs", True)), settings.precision == "bf16"
        try:
            model = library.model(bundle.config, len(bundle.tasks), bundle.dense(), bf16, device, graphs)
        except ValueError as error:
            raise BundleError(f"{bundle.path / DENSE}: {error}") from error
        description = {
            "backend": cls.name,
            "provider": "cuda",
            "precision": settings.precision,
            "tf32": False,
            "device": {"number": device, **found},
            "graphs": graphs,
            "packed_bytes": model.facts()["weight_bytes"],
            "threads": 1,
            "experimental": True,
            "why": settings.why,
        }
        return cls(model, description)

    def run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Returns scores float32 [B, T] for inputs float32 [B, ·]. Raises BackendError when the GPU fails."""
        return self._model.run(*(np.ascontiguousarray(x) for x in (inputs.general, inputs.domain, inputs.prior)))

    def describe(self) -> dict[str, Any]:
        """Returns backend, provider, precision, tf32, device, graphs, packed_bytes, threads, experimental and why."""
        return dict(self._description)


def why_not(bundle: Bundle, settings: Settings) -> str | None:
    """Returns what keeps this backend from running `bundle` as asked on any machine, None when nothing does."""
    if settings.provider is not None and settings.provider not in PROVIDERS:
        return f"provider: cuda has {', '.join(PROVIDERS)}, got {settings.provider!r}"
    if settings.precision not in (there := PRECISIONS["cuda"]):
        return f"precision: cuda has {', '.join(there)}, got {settings.precision!r}"
    for name, value in settings.options.items():
        if name not in OPTIONS:
            return f"options: cuda has {', '.join(OPTIONS)}, got {name!r}"
        if type(value) is not OPTIONS[name]:
            kind = "true or false" if OPTIONS[name] is bool else "an integer"
            return f"options.{name}: expected {kind}, got {value!r}"
    if bundle.config.model != "pepnet":
        return f"model: cuda runs pepnet, got the baseline {bundle.config.model!r}"
    return None


def _library() -> CudaLibrary:
    path = library_path()
    if path is None:
        built = "this package was built without libpepnet_cuda: no nvcc 12.4 or newer was there"
        raise BackendError(f"backend: cuda: {built} (see docs/gpu.md)")
    return open_library(path)


def _device(library: CudaLibrary, number: int) -> dict[str, Any]:
    problem = no_gpu_because()
    if problem is not None and not library.emulated:
        raise BackendError(f"backend: cuda: {problem}")
    count = library.devices()
    if not 0 <= number < count:
        raise BackendError(f"options.device: expected 0 to {count - 1}, got {number}")
    found = library.device(number)
    capability = tuple(int(part) for part in found["capability"].split("."))
    if capability < _LEAST and not library.emulated:
        least = ".".join(map(str, _LEAST))
        raise BackendError(f"backend: cuda: expected compute capability {least} or newer, got {found['capability']}")
    return found
