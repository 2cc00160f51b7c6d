"""What network a bundle holds: the flags and widths of the model, and the tensors that follow from them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pepnet_infer.errors import SchemaError
from pepnet_infer.quoting import quote

BACKBONES = ("mmoe", "towers")
GATE_POSITIONS = ("output", "input")
GATE_SCOPES = ("layer", "group")
BASELINES = ("deepfm", "dcnv2", "shared_bottom", "mmoe", "ple")
MODELS = ("pepnet", *BASELINES)
_MOST = 2**31 - 1  # of a width: what the kernels count with
_MOST_LAYERS = 256
#: Least and most of γ, 2 in the paper: the gates of each layer multiply by it, so that a large one overflows.
GAMMA = (1e-3, 1e3)


@dataclass(frozen=True)
class InputWidths:
    """Widths of the three dense inputs; 0 for an input the schema leaves empty."""

    general: int
    domain: int
    prior: int


@dataclass(frozen=True)
class ModelConfig:
    """The flags of the model (docs/model.md).

    `model` is "pepnet" or the name of a baseline. Baselines read `layers`, `towers`, `experts` and `extra`, and are
    scored through their ONNX graph only; the other flags describe PEPNet.
    """

    inputs: InputWidths
    layers: tuple[int, ...]
    towers: tuple[int, ...] = (64,)
    experts: int = 8
    backbone: str = "mmoe"
    gate_position: str = ""  # resolved by __post_init__: output with mmoe, input with towers
    gate_scope: str = ""  # resolved by __post_init__: layer with mmoe, group with towers
    epnet_general: bool = True
    use_epnet: bool = True
    use_ppnet: bool = True
    gamma: float = 2.0
    gate_hidden: int | None = None
    model: str = "pepnet"
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        towers = self.backbone == "towers"
        if not self.gate_position:
            object.__setattr__(self, "gate_position", "input" if towers else "output")
        if not self.gate_scope:
            object.__setattr__(self, "gate_scope", "group" if towers else "layer")
        _one_of("model", self.model, MODELS)
        _one_of("backbone", self.backbone, BACKBONES)
        _one_of("gate_position", self.gate_position, GATE_POSITIONS)
        _one_of("gate_scope", self.gate_scope, GATE_SCOPES)
        if not self.layers:
            raise SchemaError("config.layers: expected at least one width, got none")
        for name, widths in (("layers", self.layers), ("towers", self.towers)):
            if any(w < 1 for w in widths):
                raise SchemaError(f"config.{name}: expected widths of at least 1, got {quote(list(widths))}")
            if len(widths) > _MOST_LAYERS:
                raise SchemaError(f"config.{name}: expected at most {_MOST_LAYERS} widths, got {len(widths)}")
        if self.experts < 1:
            raise SchemaError(f"config.experts: expected at least 1, got {self.experts}")
        if self.gate_hidden is not None and self.gate_hidden < 1:
            raise SchemaError(f"config.gate_hidden: expected null or at least 1, got {self.gate_hidden}")
        if not GAMMA[0] <= self.gamma <= GAMMA[1]:
            raise SchemaError(f"config.gamma: expected a number from {GAMMA[0]:g} to {GAMMA[1]:g}, got {self.gamma:g}")
        if self.inputs.general < 1 or self.inputs.domain < 0 or self.inputs.prior < 0:
            raise SchemaError(f"config.inputs: expected at least 1 general column and none below 0, got {self.inputs}")
        if self.model == "pepnet":
            if self.use_epnet and self.inputs.domain < 1:
                raise SchemaError("config.inputs.domain: EPNet needs at least one domain column, got 0")
            if self.use_ppnet and self.inputs.prior < 1:
                raise SchemaError("config.inputs.prior: PPNet needs at least one prior column, got 0")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelConfig:
        """Reads the manifest's `config`. Raises SchemaError naming the key that is missing, unknown or off."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known, key=str)
        if unknown:
            raise SchemaError(f"config: unknown key {quote(unknown[0])}; known: {', '.join(sorted(known))}")
        for name in ("inputs", "layers"):
            if name not in data:
                raise SchemaError(f"config: missing key {name!r}")
        values = dict(data)
        inputs = values["inputs"]
        if not isinstance(inputs, Mapping) or set(inputs) != {"general", "domain", "prior"}:
            raise SchemaError(f"config.inputs: expected widths of general, domain and prior, got {quote(inputs)}")
        values["inputs"] = InputWidths(**{k: _integer(f"inputs.{k}", v) for k, v in inputs.items()})
        for name in ("layers", "towers"):
            if name in values:
                if not isinstance(values[name], (list, tuple)):
                    raise SchemaError(f"config.{name}: expected a list of widths, got {quote(values[name])}")
                values[name] = tuple(_integer(name, w) for w in values[name])
        if "experts" in values:
            values["experts"] = _integer("experts", values["experts"])
        if values.get("gate_hidden") is not None:
            values["gate_hidden"] = _integer("gate_hidden", values["gate_hidden"])
        for name in ("epnet_general", "use_epnet", "use_ppnet"):
            if name in values and not isinstance(values[name], bool):
                raise SchemaError(f"config.{name}: expected true or false, got {quote(values[name])}")
        for name in ("backbone", "gate_position", "gate_scope", "model"):
            if name in values and not isinstance(values[name], str):
                raise SchemaError(f"config.{name}: expected a string, got {quote(values[name])}")
        if not isinstance(values.get("extra", {}), Mapping):
            raise SchemaError(f"config.extra: expected a mapping, got {quote(values['extra'])}")
        if "gamma" in values:
            gamma = values["gamma"]
            if isinstance(gamma, bool) or not isinstance(gamma, (int, float)) or not abs(gamma) <= sys.float_info.max:
                raise SchemaError(f"config.gamma: expected a finite number, got {quote(gamma)}")
            values["gamma"] = float(gamma)
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` reads, as plain JSON values."""
        data = dataclasses.asdict(self)
        data["layers"], data["towers"] = list(self.layers), list(self.towers)
        data["extra"] = dict(self.extra)
        return data

    @property
    def groups(self) -> str:
        """What the expert tensors' first axis counts: "experts" with mmoe, "tasks" with towers."""
        return "tasks" if self.backbone == "towers" else "experts"

    def gated_widths(self) -> tuple[int, ...]:
        """Returns width_l of every PPNet gate, in order of l, for one group (no factor for the gate scope)."""
        if not self.use_ppnet:
            return ()
        if self.gate_position == "output":
            return self.layers
        into = (self.inputs.general, *self.layers)
        return into if self.backbone == "towers" else into[:-1]

    def tensor_shapes(self, tasks: int) -> dict[str, tuple[int, ...]]:
        """Returns name → shape of every tensor in `dense.safetensors` of a PEPNet with `tasks` targets."""
        if self.model != "pepnet":
            raise SchemaError(f"config.model: tensor names are defined for 'pepnet', not for {self.model!r}")
        general, domain, prior = self.inputs.general, self.inputs.domain, self.inputs.prior
        groups = tasks if self.backbone == "towers" else self.experts
        shapes: dict[str, tuple[int, ...]] = {}

        def gate(name: str, into: int, out: int) -> None:
            hidden = self.gate_hidden or out
            shapes.update({f"{name}.w1": (into, hidden), f"{name}.b1": (hidden,)})
            shapes.update({f"{name}.w2": (hidden, out), f"{name}.b2": (out,)})

        if self.use_epnet:
            gate("epnet.gate", domain + (general if self.epnet_general else 0), general)
        copies = groups if self.gate_scope == "group" else 1
        for l, width in enumerate(self.gated_widths()):
            gate(f"ppnet.{l}.gate", prior + general, copies * width)
        outputs = (*self.layers, 1) if self.backbone == "towers" else self.layers
        into = general
        for l, out in enumerate(outputs):
            shapes[f"experts.{l}.w"], shapes[f"experts.{l}.b"] = (groups, into, out), (groups, out)
            into = out
        if self.backbone == "mmoe":
            shapes["mix.w"], shapes["mix.b"] = (general, tasks * groups), (tasks * groups,)
            for i, out in enumerate((*self.towers, 1)):
                shapes[f"towers.{i}.w"], shapes[f"towers.{i}.b"] = (tasks, into, out), (tasks, out)
                into = out
        return shapes


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SchemaError(f"config.{name}: expected one of {', '.join(allowed)}, got {quote(value)}")


def _integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SchemaError(f"config.{name}: expected an integer, got {quote(value)}")
    if not -1 <= value <= _MOST:
        raise SchemaError(f"config.{name}: expected an integer up to {_MOST}, got {quote(value)}")
    return value
