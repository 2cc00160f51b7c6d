"""PyTorch on the CPU: eager in float32 and bfloat16, and torch.compile; also the float64 truth all are held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.bench.machine import bf16_note

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from pepnet_infer.bundle.bundle import Bundle
    from pepnet_infer.schema.inputs import Inputs

#: Rows the float64 reference takes at a time: the widest activation stays near 40 MB.
_REFERENCE_ROWS = 1024


class TorchPeer:
    """A network called on tensors that share the memory of the NumPy inputs."""

    def __init__(self, network: Callable[..., torch.Tensor], dtype: torch.dtype, settings: dict[str, Any]) -> None:
        self._network, self._dtype, self._settings = network, dtype, settings

    def scores(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Returns scores [B, T]; conversions to and from bfloat16 are part of the call."""
        import torch

        with torch.inference_mode():
            tensors = (torch.from_numpy(x) for x in (inputs.general, inputs.domain, inputs.prior))
            out = self._network(*(t.to(self._dtype) for t in tensors))
            scores: npt.NDArray[np.float32] = out.float().numpy()
            return scores

    def describe(self) -> dict[str, Any]:
        """Returns torch's thread count and what was done to the network."""
        import torch

        return {"threads": torch.get_num_threads(), "dtype": str(self._dtype).removeprefix("torch."), **self._settings}


def network(bundle: Bundle) -> torch.nn.Module:
    """Returns the bundle's network with its weights, float32, for inference only."""
    from pepnet_infer.export.model.network import build_network, load_dense

    module = build_network(bundle.config, len(bundle.tasks))
    load_dense(module, bundle.dense())
    return module.eval().requires_grad_(False)


def reference(bundle: Bundle, inputs: Inputs) -> npt.NDArray[np.float64]:
    """Returns scores [B, T] computed in float64 by the readable network."""
    import torch

    module = network(bundle).double()
    parts = []
    with torch.inference_mode():
        for start in range(0, inputs.general.shape[0], _REFERENCE_ROWS):
            rows = slice(start, start + _REFERENCE_ROWS)
            tensors = (torch.from_numpy(x[rows]).double() for x in (inputs.general, inputs.domain, inputs.prior))
            parts.append(module(*tensors).numpy())
    return np.concatenate(parts)


def build_fp32(bundle: Bundle, batch: int, threads: int) -> TorchPeer:
    """Eager PyTorch."""
    import torch

    torch.set_num_threads(threads)
    return TorchPeer(network(bundle), torch.float32, {})


def build_bf16(bundle: Bundle, batch: int, threads: int) -> TorchPeer:
    """Eager PyTorch with weights, activations and the softmax in bfloat16."""
    import torch

    torch.set_num_threads(threads)
    return TorchPeer(network(bundle).bfloat16(), torch.bfloat16, bf16_note())


def build_compiled(bundle: Bundle, batch: int, threads: int) -> TorchPeer:
    """torch.compile with frozen (prepacked) weights, compiled for this batch size on the first call."""
    import torch

    torch.set_num_threads(threads)
    torch._dynamo.reset()  # each build compiles anew; else its recompile limit ends in silent eager runs
    compiled = torch.compile(network(bundle), fullgraph=True, dynamic=False, options={"freezing": True})
    return TorchPeer(compiled, torch.float32, {"freezing": True, "dynamic": False})
