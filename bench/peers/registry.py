"""Which peers there are, and which of them a command asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pepnet_infer.bench.peers import engine, onnxruntime_cpu, openvino_cpu, torch_cpu

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pepnet_infer.bundle.bundle import Bundle
    from pepnet_infer.schema.inputs import Inputs

#: The peer ratios are printed against unless the command names another.
BASELINE = "onnxruntime"


class Peer(Protocol):
    """One loaded network. What is timed is `scores`: float32 NumPy arrays in, a float32 NumPy array out."""

    def scores(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Returns scores [B, T] for general, domain and prior [B, ·]. The array may be reused by the next call."""
        ...

    def describe(self) -> dict[str, Any]:
        """Returns settings as the library reports them, as plain JSON values."""
        ...


#: (bundle, rows of every call, threads) → a loaded peer. The row count lets a peer that gains from a fixed shape have
#: one, since that is how its users would deploy it; peers that take any batch ignore it.
Build = Callable[["Bundle", int, int], Peer]


@dataclass(frozen=True)
class PeerSpec:
    """A peer by name. `precision` is that of weights and products, `how` says in few words what is run."""

    name: str
    precision: str
    how: str
    build: Build


def all_peers() -> list[PeerSpec]:
    """Returns every peer of this version, installed or not; our own come last, from the engine's registry."""
    return [
        PeerSpec("torch", "fp32", "the exported network, eager, inference_mode", torch_cpu.build_fp32),
        PeerSpec("torch-bf16", "bf16", "the same, module.bfloat16()", torch_cpu.build_bf16),
        PeerSpec("torch-compile", "fp32", "torch.compile, frozen, fixed batch", torch_cpu.build_compiled),
        PeerSpec("onnxruntime", "fp32", "dense.onnx, CPU provider", onnxruntime_cpu.build),
        PeerSpec("openvino", "fp32", "dense.onnx, latency hint, fixed batch", openvino_cpu.build_fp32),
        PeerSpec("openvino-bf16", "bf16", "the same, bf16 precision hint", openvino_cpu.build_bf16),
        *(PeerSpec(e.name, e.precision, e.how, e.build) for e in engine.variants()),
    ]
