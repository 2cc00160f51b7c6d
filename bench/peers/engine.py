"""Our own engine, one peer for each backend and precision it has, on the CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.backends.protocol import GPU_PRECISIONS, PRECISIONS
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
    """One backend on one device in one precision."""

    name: str
    precision: str
    how: str
    build: Callable[[Bundle, int, int], EnginePeer]


def variants() -> list[Variant]:
    """Returns every backend of this version in every precision it has, named engine-BACKEND[-PRECISION].

    The native backend on a GPU is called cuda; ONNX Runtime there is a peer of its own.
    """
    return [
        Variant(
            f"engine-{name}" + ("" if precision == "fp32" else f"-{precision}"),
            precision,
            f"Engine.score_dense, backend {backend} on {device}",
            partial(_build, backend, device, precision),
        )
        for name, backend, device, precisions in (
            ("onnxruntime", "onnxruntime", "cpu", PRECISIONS["onnxruntime"]),
            ("native", "native", "cpu", PRECISIONS["native"]),
            ("cuda", "native", "cuda", GPU_PRECISIONS["native"]),
        )
        for precision in precisions
    ]


def _build(backend: str, device: str, precision: str, bundle: Bundle, batch: int, threads: int) -> EnginePeer:
    options = _OPTIONS.get(precision)
    return EnginePeer(
        Engine.load(
            bundle.path,
            device=device,
            backend=backend,
            precision=precision,
            threads=threads,
            check="sizes",
            options=options,
        )
    )
