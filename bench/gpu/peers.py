"""Who gpu_check.py times: torch, ONNX Runtime and the cuda kernels, all in the current stream, weights packed ahead.

A peer takes inputs on the GPU (general, domain, prior) and returns a call without arguments that puts the work into the
stream and returns the scores [B, T], which are there when the stream is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], Any]
Peer = Callable[[tuple[Any, ...]], Call]


def ours(
    torch: Any, library: Any, config: Any, tensors: dict[str, np.ndarray], tasks: int
) -> Iterator[tuple[str, Peer]]:
    """Yields (name, peer) of the kernels by precision, without graphs, and in each tile."""
    from pepnet_infer.backends.cuda.library import TILES, pack_model

    def peer_of(precision: str, graphs: bool = True, tile: str | None = None) -> Peer:
        model = pack_model(library, config, tasks, tensors, precision, graphs=graphs, tile=tile)

        def peer(inputs: tuple[Any, ...]) -> Call:
            scores = torch.empty(len(inputs[0]), tasks, device="cuda")
            general, domain, prior, out = (x.data_ptr() for x in (*inputs, scores))

            def call() -> Any:
                stream = torch.cuda.current_stream().cuda_stream
                model.run_at(general, domain, prior, out, len(scores), stream)
                return scores

            return call

        return peer

    yield "cuda-fp32", peer_of("fp32")
    yield "cuda-bf16", peer_of("bf16")
    yield "cuda-bf16-no-graph", peer_of("bf16", graphs=False)
    for tile in TILES:
        yield f"cuda-bf16-{tile}", peer_of("bf16", tile=tile)


def torch_peers(torch: Any, config: Any, tensors: dict[str, np.ndarray]) -> Iterator[tuple[str, Peer]]:
    """Yields (name, peer): eager, and one graph for each set of inputs."""
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        network = Network(torch, config, tensors, dtype)
        yield f"torch-{name}", network.eager
        yield f"torch-graph-{name}", network.graph


def torch_compiled(torch: Any, config: Any, tensors: dict[str, np.ndarray]) -> Peer:
    """Returns the peer torch.compile (max-autotune, its own CUDA graphs) in bf16: minutes of compiling a shape."""
    network = Network(torch, config, tensors, torch.bfloat16)
    compiled = torch.compile(network.forward, mode="max-autotune", dynamic=False)

    def peer(inputs: tuple[Any, ...]) -> Call:
        cast = network.cast(inputs)
        for _ in range(3):
            compiled(*cast)
        return lambda: compiled(*cast)

    return peer


class Network:
    """The dense part of preset kuaishou's kind (mmoe, gates by layer on outputs) in as few torch calls as it takes."""

    def __init__(
        self, torch: Any, config: Any, tensors: dict[str, np.ndarray], dtype: Any, device: str = "cuda"
    ) -> None:
        assert (config.backbone, config.gate_position, config.gate_scope) == ("mmoe", "output", "layer")
        self.torch, self.dtype, self.gamma = torch, dtype, config.gamma
        self.experts, self.hidden = config.experts, [tensors[f"ppnet.{l}.gate.b1"].shape[0] for l in range(2)]

        def on_gpu(array: np.ndarray) -> Any:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype)

        self.t = {name: on_gpu(array) for name, array in tensors.items()}
        gates = [f"ppnet.{l}.gate" for l in range(2)]
        self.t["gates.w1"] = on_gpu(np.concatenate([tensors[f"{g}.w1"] for g in gates], axis=1))
        self.t["gates.b1"] = on_gpu(np.concatenate([tensors[f"{g}.b1"] for g in gates]))
        wide = tensors["experts.0.w"]
        self.t["wide.w"] = on_gpu(wide.transpose(1, 0, 2).reshape(wide.shape[1], -1))
        self.t["wide.b"] = on_gpu(tensors["experts.0.b"].reshape(-1))
        self.t["towers.1.row"] = self.t["towers.1.w"].transpose(1, 2).contiguous()

    def forward(self, general: Any, domain: Any, prior: Any) -> Any:
        """Returns scores [B, T] of inputs [B, ·]."""
        torch, t, rows = self.torch, self.t, len(general)
        into = torch.cat([domain, general], 1)
        first = torch.relu(torch.addmm(t["epnet.gate.b1"], into, t["epnet.gate.w1"]))
        o = self.gamma * torch.sigmoid(torch.addmm(t["epnet.gate.b2"], first, t["epnet.gate.w2"])) * general
        hidden = torch.relu(torch.addmm(t["gates.b1"], torch.cat([prior, o], 1), t["gates.w1"]))
        deltas = [
            self.gamma * torch.sigmoid(torch.addmm(t[f"ppnet.{l}.gate.b2"], part, t[f"ppnet.{l}.gate.w2"]))
            for l, part in enumerate(torch.split(hidden, self.hidden, 1))
        ]
        h = torch.relu(torch.addmm(t["wide.b"], o, t["wide.w"])).reshape(rows, self.experts, -1) * deltas[0][:, None]
        h = torch.relu(torch.baddbmm(t["experts.1.b"][:, None], h.transpose(0, 1), t["experts.1.w"])) * deltas[1]
        shares = torch.addmm(t["mix.b"], o, t["mix.w"]).reshape(rows, -1, self.experts).softmax(2)
        mixed = torch.bmm(shares, h.transpose(0, 1)).transpose(0, 1)
        towers = torch.relu(torch.baddbmm(t["towers.0.b"][:, None], mixed, t["towers.0.w"]))
        return torch.sigmoid((towers * t["towers.1.row"]).sum(2) + t["towers.1.b"]).transpose(0, 1)

    def cast(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Returns inputs in the network's type."""
        return tuple(x.to(self.dtype) for x in inputs)

    def eager(self, inputs: tuple[Any, ...]) -> Call:
        """A peer: one kernel after another."""
        cast = self.cast(inputs)
        return lambda: self.forward(*cast)

    def graph(self, inputs: tuple[Any, ...]) -> Call:
        """A peer: the same, recorded."""
        torch, cast = self.torch, self.cast(inputs)
        for _ in range(3):
            self.forward(*cast)
        torch.cuda.synchronize()
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            scores = self.forward(*cast)

        def call() -> Any:
            recorded.replay()
            return scores, cast  # which the graph reads, and does not hold

        return lambda: call()[0]


def onnxruntime_peer(torch: Any, path: Path | None, tasks: int, notes: list[str]) -> Peer | None:
    """Returns the peer ONNX Runtime on CUDA with a graph for each set of inputs, or None and why in `notes`."""
    if path is None:
        notes.append("onnxruntime: no --onnx")
        return None
    from pepnet_infer.backends.ort_library import import_onnxruntime
    from pepnet_infer.errors import BackendError

    try:
        onnxruntime: Any = import_onnxruntime()
    except BackendError as error:
        notes.append(f"onnxruntime: {error}")
        return None
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        notes.append("onnxruntime: built without CUDA")
        return None
    session = None
    options = {"use_tf32": "0", "enable_cuda_graph": "1"}
    for more in ({"user_compute_stream": str(torch.cuda.current_stream().cuda_stream)}, {}):
        try:
            session = onnxruntime.InferenceSession(str(path), providers=[("CUDAExecutionProvider", options | more)])
            break
        except Exception as error:  # said below
            notes.append(f"onnxruntime with {more or 'a stream of its own'}: {str(error)[:200]}")
    if session is None or session.get_providers()[0] != "CUDAExecutionProvider":
        notes.append("onnxruntime: expected CUDAExecutionProvider, did not get it")
        return None
    numbers = itertools.count(1)

    def peer(inputs: tuple[Any, ...]) -> Call:
        binding, run, rows = session.io_binding(), onnxruntime.RunOptions(), len(inputs[0])
        run.add_run_config_entry("gpu_graph_id", str(next(numbers)))
        run.add_run_config_entry("disable_synchronize_execution_providers", "1")
        scores = torch.empty(rows, tasks, device="cuda")
        for name, x in zip(("general", "domain", "prior"), inputs, strict=True):
            binding.bind_input(name, "cuda", 0, np.float32, list(x.shape), x.data_ptr())
        output = session.get_outputs()[0].name
        binding.bind_output(output, "cuda", 0, np.float32, list(scores.shape), scores.data_ptr())
        held = (inputs, scores)

        def call() -> Any:
            session.run_with_iobinding(binding, run)
            return held[1]

        return call

    return peer
