"""Our own engine, one peer per backend and precision that its registry has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.backends.create import BACKENDS
from pepnet_infer.backends.protocol import PRECISIONS
from pepnet_infer.engine import Engine

if TYPE_CHECKING:
    from pepnet_infer.bundle.bundle import Bundle
    from pepnet_infer.schema.inputs import Inputs

#: Options by precision: int8 is measured on any bundle, its errors beside it, offered by the bundle or not.
_OPTIONS: dict[str, dict[str, object]] = {"int8": {"unchecked": True}}


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
    """Returns every backend of this version in every precision it has, named engine-BACKEND[-PRECISION]."""
    return [
        Variant(
            f"engine-{backend}" + ("" if precision == "fp32" else f"-{precision}"),
            precision,
            f"Engine.score_dense, backend {backend}",
            partial(_build, backend, precision),
        )
        for backend in BACKENDS
        for precision in PRECISIONS[backend]
    ]


def _build(backend: str, precision: str, bundle: Bundle, batch: int, threads: int) -> EnginePeer:
    options = _OPTIONS.get(precision)
    return EnginePeer(Engine.load(bundle.path, backend, precision, threads, check="sizes", options=options))
