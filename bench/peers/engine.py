"""Our own engine, one peer per backend and precision that its registry has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.backends import BACKENDS
from pepnet_infer.engine import Engine
from pepnet_infer.errors import BackendError

if TYPE_CHECKING:
    from pepnet_infer.assemble import Inputs
    from pepnet_infer.bundle import Bundle

PRECISIONS = ("fp32", "bf16", "int8")


class EnginePeer:
    """`Engine.score_dense`, with its checks of the inputs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def scores(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Returns scores [B, T]."""
        return self._engine.score_dense(inputs.general, inputs.domain, inputs.prior)

    def describe(self) -> dict[str, Any]:
        """Returns what the backend says of itself."""
        backend: dict[str, Any] = self._engine.stats()["backend"]
        return backend


@dataclass(frozen=True)
class Variant:
    """One backend in one precision."""

    name: str
    precision: str
    how: str
    build: Callable[[Bundle, int, int], EnginePeer]


def variants() -> list[Variant]:
    """Returns every backend of this version in every precision there could be, named engine-BACKEND[-PRECISION].

    The registry does not say which precisions a backend has: loading one it has not raises BackendError.
    """
    return [
        Variant(
            f"engine-{backend}" + ("" if precision == "fp32" else f"-{precision}"),
            precision,
            f"Engine.score_dense, backend {backend}",
            partial(_build, backend, precision),
        )
        for backend in BACKENDS
        for precision in PRECISIONS
    ]


def lacks_precision(error: Exception) -> bool:
    """Whether this is a backend's way of saying that it does not have the precision asked for."""
    return isinstance(error, BackendError) and str(error).startswith("precision:")


def _build(backend: str, precision: str, bundle: Bundle, batch: int, threads: int) -> EnginePeer:
    return EnginePeer(Engine.load(bundle.path, backend=backend, precision=precision, threads=threads, check="sizes"))
