"""Random weights that behave like trained ones, so that presets and tests need no training.

Weights drawn alike would give scores that all sit at 0.5 and gates that all sit at γ/2, on which any error bound and
any clock is meaningless. Here every layer is scaled on standard normal rows, in order, until its outputs vary from row
to row as much as they should: logits with a standard deviation of 1.1 per task, gates that use all of (0, γ).

Why not more: what rounding the weights to bf16 does to a score grows with both. With all else exact and the towers
left in float32, that alone is 2.2e-3 (root mean square) on the scores of preset kuaishou at deviations of 2 and, for
gates' arguments, 2.5: no bf16 engine could stay within 2e-3. At 1.1 and 1.5 it is 1.25e-3, and 1.8e-3 with activations
rounded too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pepnet_infer.network import operations as ops
from pepnet_infer.network.cost import reads
from pepnet_infer.network.interpret import evaluate
from pepnet_infer.network.network import Network
from pepnet_infer.schema.network_config import ModelConfig

Floats = npt.NDArray[np.float64]
Dense = dict[str, npt.NDArray[np.float32]]

# Calibration rows times general width: many rows for narrow networks, whose tails are heavy, fewer for wide ones. Those
# of the presets are enough for each task's logits on new rows to be within 6 % of LOGIT_STD.
CALIBRATION = 1 << 21
LOGIT_STD = 1.1
GATE_STD = 1.5  # of a gate's argument: a twentieth of its values lie beyond 0.05·γ and 0.95·γ
MIX_STD = 1.5  # of the softmax's arguments: one expert leads on most rows, none on all
HIDDEN_STD = 1.0
CROSS_STD = 0.5  # of what a cross layer multiplies its input with
BIAS_STD = 0.3  # of the bias left after centring, in units of the layer's own standard deviation


class _Draw:
    """Draws tensors in order of use and pushes the calibration rows through them."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.tensors: Dense = {}

    def linear(self, x: Floats, out: int, std: float, names: tuple[str, str], groups: int = 0) -> Floats:
        """Draws w, b with x·w + b of the given deviation over rows. x [B, in], or [G, B, in] with groups → like x."""
        lead = (groups,) if groups else ()
        w = self.random.standard_normal((*lead, x.shape[-1], out), dtype=np.float32)
        y = x @ w.astype(np.float64)
        # Rounded before use, so that the last bits of the machine's matrix product do not reach the weights.
        scale = (std / np.sqrt(y.var(axis=-2).mean(axis=-1))).astype(np.float32)[..., None, None]
        w *= scale
        y *= scale
        bias = std * BIAS_STD * self.random.standard_normal((*lead, 1, out)) - y.mean(axis=-2, keepdims=True)
        b = bias.astype(np.float32)
        self.tensors[names[0]], self.tensors[names[1]] = w, b.reshape(*lead, out)
        shifted: Floats = y + b
        return shifted

    def gate(self, x: Floats, out: int, config: ModelConfig, name: str) -> Floats:
        hidden = config.gate_hidden or out
        y = np.maximum(self.linear(x, hidden, HIDDEN_STD, (f"{name}.w1", f"{name}.b1")), 0.0)
        y = self.linear(y, out, GATE_STD, (f"{name}.w2", f"{name}.b2"))
        return config.gamma / (1.0 + np.exp(-y))


def random_dense(config: ModelConfig, tasks: int, seed: int) -> Dense:
    """Returns weights and biases for `Network.derived(config, tasks).tensors`, the same for the same arguments.

    On standard normal general, domain and prior inputs, each task's logit has a standard deviation of LOGIT_STD over
    rows, within a tenth (of a baseline a fifth), and a mean near zero.
    """
    if config.model != "pepnet":
        return _of_list(Network.derived(config, tasks), seed)
    shapes = Network.derived(config, tasks).tensors
    inputs = config.inputs
    rows = min(max(CALIBRATION // inputs.general, 256), 2048)
    draw = _Draw(seed)
    widths = (inputs.general, inputs.domain, inputs.prior)
    general, domain, prior = (draw.random.standard_normal((rows, width)) for width in widths)
    o = general
    if config.use_epnet:
        x = np.concatenate([domain, general], 1) if config.epnet_general else domain
        o = draw.gate(x, inputs.general, config, "epnet.gate") * general
    groups = tasks if config.backbone == "towers" else config.experts
    deltas = []
    for l, width in enumerate(config.gated_widths()):
        by_group = groups if config.gate_scope == "group" else 1
        delta = draw.gate(np.concatenate([prior, o], 1), by_group * width, config, f"ppnet.{l}.gate")
        deltas.append(delta.reshape(rows, by_group, width).transpose(1, 0, 2))
    h = np.broadcast_to(o, (groups, *o.shape))
    outputs = (*config.layers, 1) if config.backbone == "towers" else config.layers
    for l, out in enumerate(outputs):
        scores = l == len(config.layers)
        if deltas and config.gate_position == "input":
            h = h * deltas[l]
        std = LOGIT_STD if scores else HIDDEN_STD
        h = draw.linear(h, out, std, (f"experts.{l}.w", f"experts.{l}.b"), groups)
        h = h if scores else np.maximum(h, 0.0)
        if deltas and config.gate_position == "output" and not scores:
            h = h * deltas[l]
    if config.backbone == "mmoe":
        a = draw.linear(o, tasks * groups, MIX_STD, ("mix.w", "mix.b")).reshape(rows, tasks, groups)
        a = np.exp(a - a.max(2, keepdims=True))
        h = np.einsum("bte,ebh->tbh", a / a.sum(2, keepdims=True), h, optimize=True)
        for i, out in enumerate((*config.towers, 1)):
            last = i == len(config.towers)
            std = LOGIT_STD if last else HIDDEN_STD
            h = draw.linear(h, out, std, (f"towers.{i}.w", f"towers.{i}.b"), tasks)
            h = h if last else np.maximum(h, 0.0)
    return {name: draw.tensors[name] for name in shapes}


def _of_list(network: Network, seed: int) -> Dense:
    """Weights for any list: those of each operation are drawn when what it reads is known."""
    widths = network.inputs
    rows = min(max(CALIBRATION // widths.general, 256), 2048)
    draw = _Draw(seed)
    inputs = (draw.random.standard_normal((rows, n)) for n in (widths.general, widths.domain, widths.prior))
    values = {name: x[:, None, :] for name, x in zip(("general", "domain", "prior"), inputs, strict=True)}
    stds = _deviations(network)
    for operation in network.operations:
        match operation:
            case ops.Product():
                x = values[operation.x].transpose(1, 0, 2)
                groups = operation.groups or 0
                x = np.broadcast_to(x, (groups, *x.shape[1:])) if groups else x.reshape(-1, x.shape[2])
                names = (operation.w, operation.b or "nobody's bias")
                draw.linear(x, operation.width, stds[operation.name], names, groups)
            case ops.Cross(u=str(u), rank=int(rank)):
                y = draw.linear(values[operation.x][:, 0], rank, HIDDEN_STD, (u, "nobody's bias"))
                draw.linear(y, values[operation.x].shape[2], CROSS_STD, (operation.w, operation.b or "nobody's bias"))
            case ops.Cross():
                x = values[operation.x][:, 0]
                draw.linear(x, x.shape[1], CROSS_STD, (operation.w, operation.b or "nobody's bias"))
            case ops.Fm(x=str(name), w=str(w)):
                columns = values[name].shape[2]
                factors = draw.random.standard_normal((columns, operation.width), dtype=np.float32)
                draw.tensors[w] = (factors * (columns**2 * operation.width) ** -0.25).astype(np.float32)
            case ops.Affine():
                scale = stds[operation.name] / values[operation.x].std()
                signs = draw.random.choice(np.array([-1.0, 1.0]), operation.width)
                draw.tensors[operation.w] = (scale * signs).astype(np.float32)
        values[operation.name] = evaluate(operation, values, draw.tensors)
    return {name: draw.tensors[name] for name in network.tensors}


def _deviations(network: Network) -> dict[str, float]:
    """Operation → the deviation that its value should have over rows, by what becomes of it."""
    stds: dict[str, float] = {head.of: LOGIT_STD for head in network.heads}
    for operation in reversed(network.operations):
        stds.setdefault(operation.name, HIDDEN_STD)
        own = stds[operation.name]
        match operation:
            case ops.Gate():
                stds[operation.x] = GATE_STD
            case ops.Mix():
                stds[operation.z] = MIX_STD
            case ops.Add():
                stds |= dict.fromkeys((operation.x, operation.y), own * 0.5**0.5)
            case ops.Split() | ops.Flatten() | ops.Pick():
                stds[operation.x] = own
            case ops.Concat() | ops.Stack():
                stds |= dict.fromkeys(reads(operation), own)
    return stds
