"""The native backend on an NVIDIA GPU: the whole dense part in fused kernels of our own. Experimental: docs/gpu.md."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import CudaLibrary, CudaModel
from pepnet_infer.backends import dlpack
from pepnet_infer.backends.cuda.driver import no_gpu_because
from pepnet_infer.backends.cuda.features import FeatureScorer, fields_on_device
from pepnet_infer.backends.cuda.rows import DeviceRows, rows_beside
from pepnet_infer.backends.protocol import Settings, read_options
from pepnet_infer.bundle.bundle import DENSE, Bundle
from pepnet_infer.errors import BackendError, BundleError, SchemaError
from pepnet_infer.process import forks
from pepnet_infer.rows.cache.config import parse_bytes
from pepnet_infer.rows.protocols import RowSource
from pepnet_infer.rows.version_rows import cache_of
from pepnet_infer.schema.feature_schema import INPUTS
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.validation import Options

#: Another library than the one beside the package: one that was built by hand.
VARIABLE = "PEPNET_CUDA_LIBRARY"
_LEAST = (8, 0)  # compute capability: bf16 on the tensor cores, asynchronous copies


class CudaOptions(Options, frozen=True):
    """The backend's own options.

    graphs: launches are recorded once for each bucket of rows. rows: memory for embedding
    rows on the GPU, in bytes or as "4GiB"; without it they stay on the host.
    """

    graphs: bool = True
    rows: int | str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows is not None:
            parse_bytes("options.rows", self.rows)


class CudaBackend(forks.OwnLock):
    """A bundle's dense part on one GPU. Safe to call from many threads.

    Batches run in buckets of 1, 8, 32, 64, 128, 256, 512, 1024 or 2048 rows, larger ones in pieces; a row's scores do
    not depend on the others of its batch.
    """

    name = "native"

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        """Packs the weights onto the GPU. Options: `CudaOptions`.

        Bundle and precision are those that `Way.refusal` let pass. Raises BackendError for a device that is not there
        or too old, ConfigError for an option, BundleError for weights that do not fit the network.
        """
        super().__init__()
        options = read_options(CudaOptions, settings.options)
        path = library_path()
        assert path is not None  # as `why_not` found
        self._library, self._device = open_library(path), settings.gpu
        found = _gpu(self._library, self._device)
        widths, tasks, bf16 = bundle.network.inputs, len(bundle.tasks), settings.precision == "bf16"
        weights, network = bundle.dense(), bundle.network.to_native()
        with BundleError.in_place_of(TypeError, ValueError, file=bundle.path / DENSE):
            self._model = CudaModel(self._library, weights, network, bf16, self._device, options.graphs)
        self._rows_bytes = None if options.rows is None else parse_bytes("options.rows", options.rows)
        self._rows: DeviceRows | None = None
        self._of_dlpack = (dlpack.CPU, 0) if self._library.emulated else (dlpack.CUDA, self._device)
        self._columns = (widths.general, widths.domain, widths.prior, tasks)
        self._description = {
            "backend": self.name,
            "device": f"cuda:{self._device}",
            "precision": settings.precision,
            "tf32": False,
            "gpu": found,
            "graphs": options.graphs,
            "packed_bytes": self._model.facts()["weight_bytes"],
            "threads": 1,
            "experimental": True,
            "why": settings.why,
        }

    def run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Returns scores float32 [B, T] for inputs float32 [B, ·]. Raises BackendError when the GPU fails."""
        return self._model.run(*inputs.matrices)

    def run_on_device(self, general: object, domain: object, prior: object, out: object, stream: int) -> int:
        """Puts a call into a CUDA stream, 0 for the default one, and returns the number of rows at once.

        All are arrays on this GPU that speak DLPack, float32 and C-contiguous: [B, ·] as in `run`, out [B, T]. They are
        read and written where they are, in the order of the stream. Raises SchemaError for an array that is not so,
        BackendError when the GPU fails.
        """
        given = zip((*INPUTS, "out"), (general, domain, prior, out), self._columns, strict=True)
        views = {name: dlpack.view(name, array, width, self._of_dlpack, stream) for name, array, width in given}
        rows = views["general"].rows
        for name, one in views.items():
            if one.rows != rows:
                raise SchemaError(f"{name}: expected {rows} rows as in general, got {one.rows}")
        if rows > 0:
            first, second, third, scores = (one.address for one in views.values())
            self._model.run_at(first, second, third, scores, rows, stream)
        return rows

    def feature_scorer(self, bundle: Bundle, rows: RowSource) -> FeatureScorer | None:
        """Returns what scores features with rows on the GPU, None without the option `rows`.

        Raises BackendError for rows that do not come through a cache on the host, and where the GPU has no room.
        """
        if self._rows_bytes is None:
            return None
        cached = cache_of(rows)
        if cached is None:
            raise BackendError(f"options.rows: expected rows through a cache on the host, got {type(rows).__name__}")
        with self.lock:
            if cached.beside is None:
                cached.beside = rows_beside(cached, self._library, self._rows_bytes, self._device)
            device = cached.beside
            assert isinstance(device, DeviceRows)
            if self._rows is None:
                self._model.attach(device, fields_on_device(bundle.schema))
                self._rows = device
            elif self._rows is not device:
                raise BackendError("options.rows: expected the rows that the model was loaded with, got others")
        return FeatureScorer(bundle.schema, len(bundle.tasks), self._model, device, rows)

    def describe(self) -> dict[str, Any]:
        """Returns backend, device, precision, tf32, gpu, graphs, packed_bytes, threads, experimental and why."""
        return dict(self._description)


def why_not(_bundle: Bundle, _settings: Settings) -> str | None:
    """Returns what keeps this backend from running a bundle as asked on this machine, None when nothing does."""
    path = library_path()
    if path is None:
        built = "this package was built without libpepnet_cuda: no nvcc 12.4 or newer was there"
        return f"device: cuda: {built} (see docs/gpu.md)"
    problem = no_gpu_because()
    if problem is None:
        return None
    try:
        return None if open_library(path).emulated else f"device: cuda: {problem}"
    except BackendError as error:
        return str(error)


@cache
def open_library(path: Path) -> CudaLibrary:
    """Returns libpepnet_cuda at `path`, loaded once, and only when somebody asks for it.

    Raises BackendError for one that cannot be loaded, or is of another version.
    """
    return CudaLibrary(str(path))


def library_path() -> Path | None:
    """Returns where the library is, None where this build of the package has none."""
    given = os.environ.get(VARIABLE)
    path = Path(given) if given else Path(__file__).parents[2] / "libpepnet_cuda.so"
    return path if given or path.is_file() else None


def _gpu(library: CudaLibrary, number: int) -> dict[str, Any]:
    count = library.devices
    if not 0 <= number < count:
        raise BackendError(f"device: expected cuda:0 to cuda:{count - 1}, got cuda:{number}")
    found = library.device(number)
    capability = tuple(int(part) for part in found["capability"].split("."))
    if capability < _LEAST and not library.emulated:
        least = ".".join(map(str, _LEAST))
        raise BackendError(f"device: cuda: expected compute capability {least} or newer, got {found['capability']}")
    return found
