"""What each operation of a network costs: multiply-adds of a row, and the weights that it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import structs

from pepnet_infer.network import operations as ops
from pepnet_infer.network.network import Network


class Cost(NamedTuple):
    """Of one operation."""

    name: str
    op: str
    reads: tuple[str, ...]  #: inputs and operations
    shape: tuple[int, int]  #: groups and width of its value
    multiply_adds: int  #: of a row, in matrices; what is done element by element is below 1 % and not counted
    weight_bytes: int  #: of float32


def costs(network: Network) -> list[Cost]:
    """Returns the cost of every operation, in order."""
    shapes = {name: (1, width) for name, width in structs.asdict(network.inputs).items()} | dict(network.shapes)
    found = []
    for operation in network.operations:
        tensors = [name for field in ("w", "b", "u", "slope") if (name := getattr(operation, field, None)) is not None]
        weights = sum(math.prod(network.tensors[name]) for name in tensors)
        done = _multiply_adds(operation, shapes, network.tensors)
        found.append(Cost(operation.name, operation.op, reads(operation), shapes[operation.name], done, 4 * weights))
    return found


def multiply_adds(network: Network) -> int:
    """Returns the multiply-adds of one row in all matrices."""
    return sum(cost.multiply_adds for cost in costs(network))


def reads(operation: ops.Operation) -> tuple[str, ...]:
    """Returns the inputs and operations whose values an operation reads, in the order of its fields."""
    if isinstance(operation, ops.Concat):
        return tuple(part.source for part in operation.of)
    if isinstance(operation, ops.Stack):
        return operation.of
    values: dict[str, Any] = structs.asdict(operation)
    return tuple(
        values[name] for name in ("x0", "x", "y", "z", "h", "v", "by") if _names_a_value(operation, name, values)
    )


def _names_a_value(operation: ops.Operation, field: str, values: Mapping[str, Any]) -> bool:
    return values.get(field) is not None and not (field == "by" and isinstance(operation, ops.Reduce))


def _multiply_adds(
    operation: ops.Operation, shapes: Mapping[str, tuple[int, int]], tensors: Mapping[str, tuple[int, ...]]
) -> int:
    """Every number of a matrix is used once a row, for each group that reads it."""
    match operation:
        case ops.Product():
            groups = 1 if operation.groups is not None else shapes[operation.x][0]
            return groups * math.prod(tensors[operation.w])
        case ops.Cross():
            matrices = [name for name in (operation.w, operation.u) if name is not None]
            return shapes[operation.x][0] * sum(math.prod(tensors[name]) for name in matrices)
        case ops.Fm(w=str(name)):
            return math.prod(tensors[name])
        case _:
            return 0
