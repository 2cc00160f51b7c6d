"""libpepnet_cuda: loaded when somebody asks for it, so that a machine without it never notices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import CudaLibrary, CudaModel
from pepnet_infer.schema.network_config import ModelConfig

#: Another library than the one beside the package: one that was built by hand.
VARIABLE = "PEPNET_CUDA_LIBRARY"
#: How much of a product a block makes: kernels/cuda/shape.h.
TILES = ("few", "middle", "many", "wide")


@cache
def open_library(path: Path) -> CudaLibrary:
    """Returns the library at `path`, loaded once. Raises BackendError: it cannot be loaded, is of another version."""
    return CudaLibrary(str(path))


def library_path() -> Path | None:
    """Returns where the library is, None where this build of the package has none."""
    given = os.environ.get(VARIABLE)
    path = Path(given) if given else Path(__file__).parents[2] / "libpepnet_cuda.so"
    return path if given or path.is_file() else None


def pack_model(
    library: CudaLibrary,
    config: ModelConfig,
    tasks: int,
    tensors: Mapping[str, npt.NDArray[np.float32]],
    precision: str = "fp32",
    device: int = 0,
    graphs: bool = True,
    tile: str | None = None,
) -> CudaModel:
    """Packs C-contiguous `tensors` onto a device, and measures which tiles are the fastest there, or takes `tile`.

    precision: "fp32" or "bf16". Raises TypeError or ValueError for what does not fit the config, BackendError.
    """
    return CudaModel(library, tensors, config.to_native(tasks), precision == "bf16", device, graphs, tile)
