"""The configuration of the network: its flags, its widths, and the tensors that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

import msgspec
from msgspec import Meta

from pepnet_infer.errors import SchemaError
from pepnet_infer.quoting import quote
from pepnet_infer.schema.feature_schema import Width
from pepnet_infer.validation import Options, convert

Backbone = Literal["mmoe", "towers"]
GatePosition = Literal["output", "input"]
GateScope = Literal["layer", "group"]
Baseline = Literal["deepfm", "dcnv2", "shared_bottom", "mmoe", "ple"]
BACKBONES: tuple[Backbone, ...] = get_args(Backbone)
GATE_POSITIONS: tuple[GatePosition, ...] = get_args(GatePosition)
GATE_SCOPES: tuple[GateScope, ...] = get_args(GateScope)
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
MODELS: tuple[Baseline | Literal["pepnet"], ...] = ("pepnet", *BASELINES)
#: Least and most of γ, 2 in the paper: the gates of each layer multiply by it, so that a large one overflows.
GAMMA = (1e-3, 1e3)

Columns = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_OF_PEPNET = (
    *("backbone", "gate_position", "gate_scope", "epnet_general", "use_epnet", "use_ppnet", "gamma", "gate_hidden"),
)


class InputWidths(Options, frozen=True):
    """Widths of the three dense inputs, general, domain and prior; 0 for one that the schema leaves empty."""

    refusal = SchemaError

    general: Width
    domain: Columns
    prior: Columns


class ModelConfig(Options, frozen=True):
    """The flags of the model (docs/model.md).

    `model` is "pepnet" or the name of a baseline. Baselines read `layers`, `towers`, `experts` and `extra`, and are
    scored through their ONNX graph only; the other flags describe PEPNet. Raises SchemaError for a value that a flag
    cannot have, and for a flag that the network does not read, unless it has its default.
    """

    refusal = SchemaError

    inputs: InputWidths  #: those of the schema
    layers: Annotated[tuple[Width, ...], Meta(min_length=1, max_length=256)]
    towers: Annotated[tuple[Width, ...], Meta(max_length=256)] = (64,)
    experts: Width = 8
    backbone: Backbone = "mmoe"  #: experts, mixture and towers; or a stack of layers for each task
    gate_position: GatePosition | Literal[""] = ""  #: what gates multiply; "": output with mmoe, input with towers
    gate_scope: GateScope | Literal[""] = ""  #: who shares a gate; "": layer with mmoe, group with towers
    epnet_general: bool = True  #: whether the gate of EPNet reads the general features too
    use_epnet: bool = True  #: whether EPNet is there
    use_ppnet: bool = True  #: whether PPNet is there
    gamma: Annotated[float, Meta(ge=GAMMA[0], le=GAMMA[1])] = 2.0  #: what a gate multiplies by at most
    gate_hidden: Width | None = None  #: the width inside a gate; None: that of its output
    model: Literal["pepnet"] | Baseline = "pepnet"
    extra: Mapping[str, Any] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        by_task = self.backbone == "towers"
        defaults = {"gate_position": "input" if by_task else "output", "gate_scope": "group" if by_task else "layer"}
        for name, value in defaults.items():
            if not getattr(self, name):
                msgspec.structs.force_setattr(self, name, value)
        if self.model == "pepnet":
            if self.use_epnet and self.inputs.domain < 1:
                raise SchemaError("inputs.domain: EPNet needs at least one domain column, got 0")
            if self.use_ppnet and self.inputs.prior < 1:
                raise SchemaError("inputs.prior: PPNet needs at least one prior column, got 0")
        known: dict[str, Any] = {field.name: field.default for field in msgspec.structs.fields(self)}
        known |= {**defaults, "extra": {}}
        for name, why in unread({name: getattr(self, name) for name in self.__struct_fields__}).items():
            if (got := getattr(self, name)) != known[name]:
                raise SchemaError(f"{name}: expected none, for it is not read {why}, got {quote(got)}")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote, or a part of it. Raises SchemaError naming the key that is missing or off."""
        config: Self = convert("", data, cls, SchemaError, "config")
        return config

    @classmethod
    def from_manifest(cls, data: Mapping[str, Any]) -> Self:
        """The same for a document of any age: flags that the network does not read may have any value."""
        return cls.from_json({name: value for name, value in data.items() if name not in unread(data)})

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` reads, as plain JSON values, with every default written out."""
        data: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return data

    def gated_widths(self) -> tuple[int, ...]:
        """Returns width_l of every PPNet gate, in order of l, for one group (no factor for the gate scope)."""
        if not self.use_ppnet:
            return ()
        if self.gate_position == "output":
            return self.layers
        into = (self.inputs.general, *self.layers)
        return into if self.backbone == "towers" else into[:-1]


def unread(flags: Mapping[str, Any]) -> dict[str, str]:
    """Returns the flags that a network of `flags` does not read, whether or not they are given, and when that is so.

    flags: of a `ModelConfig`, those left out having their defaults.
    """
    model = flags.get("model", "pepnet")
    if model != "pepnet":
        left_out = (*_OF_PEPNET, "experts") if model != "mmoe" else _OF_PEPNET
        return dict.fromkeys(left_out, f"by the baseline {model}")
    found = {"extra": "by PEPNet"}
    if flags.get("backbone") == "towers":
        found |= dict.fromkeys(("experts", "towers"), "with the backbone towers")
    epnet, ppnet = flags.get("use_epnet", True), flags.get("use_ppnet", True)
    if epnet is False:
        found["epnet_general"] = "without EPNet"
    if ppnet is False:
        found |= dict.fromkeys(("gate_position", "gate_scope"), "without PPNet")
    if epnet is False and ppnet is False:
        found |= dict.fromkeys(("gamma", "gate_hidden"), "without EPNet and PPNet")
    return found
