"""Who gpu_check.py times: torch, ONNX Runtime and the cuda kernels, all in the current stream, weights packed ahead.

A peer takes a case and returns a call without arguments that puts the work into the stream and returns the scores
[B, T], which are there when the stream is. What ends in -ids and -host begins and ends on the host: ids are sent whose
rows are on the GPU, or inputs that were put together before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

#: As in preset kuaishou: 30 fields of ids, three of them in the prior too, one of the domain, numbers for the rest.
WIDTH, IDS, PRIOR = 40, 30, 3
ROWS = 1 << 16  # of each field's table
MISSING = 0.01  # of the ids of a call, what -missing-ids lacks
#: How the name of a peer ends that begins and ends on the host.
FROM_HOST = ("-ids", "-host")


@dataclass(frozen=True)
class Case:
    """A batch: ids and numbers, the inputs that they make, and these on the GPU: general, domain, prior."""

    batch: Any
    inputs: Sequence[np.ndarray]
    on_gpu: Sequence[Any]


Call = Callable[[], Any]
Peer = Callable[[Case], Call]


class IdsCall(partial[Any]):
    """A call that is sent ids. `lose` lets the GPU lack a share of them; the call fetches their rows again."""

    lose: Callable[[], None]


def all_peers(
    torch: Any, checks: Any, library: Any, host: Any, config: Any, tensors: dict[str, np.ndarray], tasks: int,
    onnx: Path | None, note: Callable[[str, str], None],
) -> dict[str, Peer]:  # fmt: skip
    """Returns all peers by name; `note` is told which one is left out. torch-compile takes minutes at a new shape."""
    from pepnet_infer._kernels import CudaModel
    from pepnet_infer.network.network import Network as Listed

    operations = Listed.derived(config, tasks).to_native()

    def model(precision: str, graphs: bool = True) -> Any:
        return CudaModel(library, tensors, operations, precision == "bf16", graphs=graphs)

    named = {"cuda-bf16-no-graph": on_device(torch, model("bf16", graphs=False), tasks)}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        named[f"cuda-{precision}"] = on_device(torch, model(precision), tasks)
        named[f"cuda-{precision}-host"] = from_host(model(precision))
        named[f"cuda-{precision}-ids"] = rows_on_gpu(checks, library, host, model(precision))
        # A model of its own: one that lacked something goes about the next call otherwise.
        named[f"cuda-{precision}-missing-ids"] = rows_on_gpu(checks, library, host, model(precision), MISSING)
        network = Network(torch, config, tensors, dtype)
        named |= {f"torch-{precision}": network.eager, f"torch-graph-{precision}": network.graph}
    named["torch-compile-bf16"] = network.compiled()
    try:
        named["onnxruntime-fp32"] = onnxruntime_peer(torch, onnx, tasks)
    except Exception as error:  # whatever keeps it from running is its result
        note("left out", f"onnxruntime: {type(error).__name__}: {str(error)[:200]}")
    return named


def on_device(torch: Any, model: Any, tasks: int) -> Peer:
    """Returns the peer that scores inputs on the GPU."""

    def peer(case: Case) -> Call:
        scores = torch.empty(len(case.inputs[0]), tasks, device="cuda")
        at = [x.data_ptr() for x in (*case.on_gpu, scores)]

        def call() -> Any:
            model.run_at(*at, len(scores), torch.cuda.current_stream().cuda_stream)
            return scores

        return call

    return peer


def from_host(model: Any) -> Peer:
    """Returns the peer that is sent inputs."""
    return lambda case: lambda: model.run(*case.inputs)


def rows_on_gpu(checks: Any, library: Any, host: Any, model: Any, missing: float = 0.0) -> Peer:
    """Returns the peer that is sent ids; the rows of all are on the GPU, until `missing` of a call's are lost.

    Its host's side is that of the checks, in plain NumPy.
    """
    random = np.random.default_rng(0)
    device = checks.OnDevice(library, model, host, {WIDTH: (IDS + 1) * ROWS * 3 // 2})
    for field in host.fields[: IDS + 1]:
        for part in np.array_split(np.arange(ROWS), max(1, ROWS >> 15)):
            device.insert(WIDTH, host.key(field.number, part))

    def peer(case: Case) -> Call:
        given, ids = device.given(case.batch), np.concatenate(case.batch.values[: IDS + 1])
        call = IdsCall(device.score, case.batch, given)
        call.lose = lambda: device.rows.drop(WIDTH, ids[random.random(len(ids)) < missing])
        return call

    return peer


def fields_of(config: Any) -> list[Any]:
    """Returns the fields of a model with the widths of preset kuaishou."""
    from pepnet_infer.backends.cuda.rows import FieldOnDevice, Place

    widths = config.inputs
    fields = []
    for i in range(IDS):
        places = [Place("general", i * WIDTH), *([Place("prior", i * WIDTH)] if i < PRIOR else [])]
        fields.append(FieldOnDevice("id", WIDTH, i, tuple(places)))
    fields.append(FieldOnDevice("id", WIDTH, IDS, (Place("domain", 0),)))
    for name, first, width in (("general", IDS * WIDTH, widths.general), ("domain", WIDTH, widths.domain)):
        fields += [FieldOnDevice("dense", 1, 0, (Place(name, column),)) for column in range(first, width)]
    return fields


def draw(checks: Any, host: Any, config: Any, rows: int, seed: int) -> tuple[Any, list[np.ndarray]]:
    """Returns a batch of ids that are all there, and the inputs that it makes: standard normal, as the tables are."""
    random = np.random.default_rng(seed)
    values = [
        random.standard_normal(rows, dtype=np.float32)
        if field.kind == "dense"
        else host.key(field.number, random.integers(0, ROWS, rows))
        for field in host.fields
    ]
    batch = checks.Batch(rows, values)
    return batch, host.inputs(config.inputs, batch)


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

    def eager(self, case: Case) -> Call:
        """A peer: one kernel after another."""
        cast = [x.to(self.dtype) for x in case.on_gpu]
        return lambda: self.forward(*cast)

    def compiled(self) -> Peer:
        """Returns the peer torch.compile (max-autotune, its own CUDA graphs)."""
        forward = self.torch.compile(self.forward, mode="max-autotune", dynamic=False)

        def peer(case: Case) -> Call:
            cast = [x.to(self.dtype) for x in case.on_gpu]
            for _ in range(3):
                forward(*cast)
            return lambda: forward(*cast)

        return peer

    def graph(self, case: Case) -> Call:
        """A peer: the same as eager, recorded as a graph for each case."""
        torch, cast = self.torch, [x.to(self.dtype) for x in case.on_gpu]
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


def onnxruntime_peer(torch: Any, path: Path | None, tasks: int) -> Peer:
    """Returns the peer ONNX Runtime on CUDA with a graph for each case. Raises BackendError where it cannot be had."""
    from pepnet_infer.backends.ort_library import import_onnxruntime
    from pepnet_infer.errors import BackendError

    if path is None:
        raise BackendError("no --onnx")
    onnxruntime: Any = import_onnxruntime()
    stream = str(torch.cuda.current_stream().cuda_stream)
    options = {"use_tf32": "0", "enable_cuda_graph": "1", "user_compute_stream": stream}
    session = onnxruntime.InferenceSession(str(path), providers=[("CUDAExecutionProvider", options)])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise BackendError(f"expected CUDAExecutionProvider, got {', '.join(session.get_providers())}")
    numbers = itertools.count(1)

    def peer(case: Case) -> Call:
        binding, run, rows = session.io_binding(), onnxruntime.RunOptions(), len(case.inputs[0])
        run.add_run_config_entry("gpu_graph_id", str(next(numbers)))
        run.add_run_config_entry("disable_synchronize_execution_providers", "1")
        scores = torch.empty(rows, tasks, device="cuda")
        for name, x in zip(("general", "domain", "prior"), case.on_gpu, strict=True):
            binding.bind_input(name, "cuda", 0, np.float32, list(x.shape), x.data_ptr())
        output = session.get_outputs()[0].name
        binding.bind_output(output, "cuda", 0, np.float32, list(scores.shape), scores.data_ptr())
        held = (case, scores)  # which the binding reads and writes, and does not hold

        def call() -> Any:
            session.run_with_iobinding(binding, run)
            return held[1]

        return call

    return peer
