"""A network: its inputs, its operations and its heads, read from a document or derived from a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from msgspec import structs

from pepnet_infer import _kernels
from pepnet_infer.errors import BundleError
from pepnet_infer.network.derive_baselines import baseline_operations
from pepnet_infer.network.derive_pepnet import pepnet_operations
from pepnet_infer.network.operations import OPERATIONS, Head, Operation
from pepnet_infer.quoting import quote
from pepnet_infer.schema.network_config import InputWidths, ModelConfig
from pepnet_infer.validation import Options, convert

#: The version of the list of operations that this code writes, and the newest that it reads.
VERSION = 1


@dataclass(frozen=True)
class Network:
    """Operations over the three inputs, each reading values that stand before it, and the heads that make scores.

    Raises BundleError naming the operation, and the operand or tensor that does not fit.
    """

    inputs: InputWidths
    operations: tuple[Operation, ...]
    heads: tuple[Head, ...]
    #: operation → (groups, width) of its value
    shapes: Mapping[str, tuple[int, int]] = field(init=False, repr=False, compare=False)
    #: tensor → its shape, for all that are read
    tensors: Mapping[str, tuple[int, ...]] = field(init=False, repr=False, compare=False)
    #: how many columns of scores the heads make
    scores: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        native = self.to_native()
        for name, value in (("shapes", native.shapes()), ("tensors", native.tensors()), ("scores", native.scores)):
            object.__setattr__(self, name, value)

    def to_native(self) -> _kernels.Network:
        """Returns the list as the lowerings read it."""
        operations = [operation.to_json() for operation in self.operations]
        heads = [(head.of, head.kind) for head in self.heads]
        with BundleError.in_place_of(TypeError, ValueError, within="network"):
            return _kernels.Network(structs.astuple(self.inputs), operations, heads)

    @classmethod
    def derived(cls, config: ModelConfig, tasks: int) -> Self:
        """Returns the network that a config describes, with `tasks` targets."""
        derive = pepnet_operations if config.model == "pepnet" else baseline_operations
        return cls(config.inputs, *derive(config, tasks))

    @classmethod
    def read(cls, where: str, document: object) -> Self:
        """Reads what `to_json` wrote. Raises BundleError naming the key that is off, and its operation by its name."""
        said: _Document = convert(where, document, _Document, BundleError, "network")
        operations = []
        for at, operation in enumerate(said.operations):
            where_it_is = f"network.operations[{at}]"
            name = operation.get("op")
            kind = OPERATIONS.get(name) if isinstance(name, str) else None
            if kind is None:
                known = ", ".join(OPERATIONS)
                raise BundleError(f"{where_it_is}.op: expected one of {known}, got {quote(name)}", within=where)
            fields = {key: value for key, value in operation.items() if key != "op"}
            operations.append(convert(where, fields, kind, BundleError, f"{where_it_is} ({name})"))
        with BundleError.in_place_of(BundleError, within=where):
            return cls(said.inputs, tuple(operations), said.heads)

    def to_json(self) -> dict[str, Any]:
        """Returns the document that `read` reads, as plain JSON values."""
        return {
            "version": VERSION,
            "inputs": structs.asdict(self.inputs),
            "operations": [operation.to_json() for operation in self.operations],
            "heads": [{"of": head.of, "as": head.kind} for head in self.heads],
        }


class _Document(Options, frozen=True):
    refusal = BundleError

    version: Literal[1]
    inputs: InputWidths
    operations: tuple[Mapping[str, Any], ...]
    heads: tuple[Head, ...]
