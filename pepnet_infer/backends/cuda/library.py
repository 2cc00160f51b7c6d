"""libpepnet_cuda: loaded when somebody asks for it, so that a machine without it never notices."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from pepnet_infer._kernels import CudaLibrary

#: Another library than the one beside the package: one that was built by hand.
VARIABLE = "PEPNET_CUDA_LIBRARY"


@cache
def open_library(path: Path) -> CudaLibrary:
    """Returns the library at `path`, loaded once. Raises BackendError: it cannot be loaded, is of another version."""
    return CudaLibrary(str(path))


def library_path() -> Path | None:
    """Returns where the library is, None where this build of the package has none."""
    given = os.environ.get(VARIABLE)
    path = Path(given) if given else Path(__file__).parents[2] / "libpepnet_cuda.so"
    return path if given or path.is_file() else None
