"""The list of operations of a PEPNet, from its flags. Formulas and names of tensors are those of docs/model.md."""

from __future__ import annotations

from pepnet_infer.network.operations import Concat, Function, Gate, Head, Mix, Multiply, Operation, Part, Product, Split
from pepnet_infer.schema.network_config import ModelConfig


def pepnet_operations(config: ModelConfig, tasks: int) -> tuple[tuple[Operation, ...], tuple[Head, ...]]:
    """Returns operations and heads of a PEPNet with `tasks` targets, in the order of its formulas."""
    return _PEPNet(config, tasks).build()


def layer(name: str, x: str, width: int, groups: int | None = None, *, relu: bool = True) -> Product:
    """Returns a layer with tensors `name`.w and `name`.b."""
    activation: Function = "relu" if relu else "identity"
    return Product(name=name, x=x, w=f"{name}.w", b=f"{name}.b", width=width, groups=groups, activation=activation)


def tower_operations(x: str, widths: tuple[int, ...], tasks: int) -> tuple[tuple[Operation, ...], tuple[Head, ...]]:
    """Returns a stack of ReLU layers for each task, over x [T, ·] or [1, ·], and the tasks' probabilities."""
    operations: list[Operation] = []
    for i, width in enumerate(widths):
        operations.append(layer(f"towers.{i}", x, width, tasks))
        x = operations[-1].name
    operations.append(layer(f"towers.{len(widths)}", x, 1, tasks, relu=False))
    return tuple(operations), (Head(of=operations[-1].name, kind="probability"),)


class _PEPNet:
    def __init__(self, config: ModelConfig, tasks: int) -> None:
        self._config, self._tasks = config, tasks
        self._by_task = config.backbone == "towers"
        self._groups = tasks if self._by_task else config.experts
        self._operations: list[Operation] = []

    def build(self) -> tuple[tuple[Operation, ...], tuple[Head, ...]]:
        o = "general"
        if self._config.use_epnet:
            read = ("domain", "general") if self._config.epnet_general else ("domain",)
            x = read[0]
            if len(read) > 1:
                x = self._add(Concat(name="epnet.x", of=tuple(Part(source=one) for one in read)))
            delta = self._gate("epnet.gate", x, self._config.inputs.general)
            o = self._add(Multiply(name="o", x=delta, y="general"))
        deltas = [self._delta(l, width, o) for l, width in enumerate(self._config.gated_widths())]
        h = o
        for l, width in enumerate(self._config.layers):
            h = self._gated(h, deltas, l, "input")
            h = self._add(layer(f"experts.{l}", h, width, self._groups))
            h = self._gated(h, deltas, l, "output")
        if self._by_task:
            last = len(self._config.layers)
            h = self._gated(h, deltas, last, "input")
            h = self._add(layer(f"experts.{last}", h, 1, self._groups, relu=False))
            return tuple(self._operations), (Head(of=h, kind="probability"),)
        logits = self._add(layer("mix", o, self._tasks * self._groups, relu=False))
        z = self._add(Split(name="mix.logits", x=logits, groups=self._tasks))
        m = self._add(Mix(name="m", z=z, h=h))
        towers, heads = tower_operations(m, self._config.towers, self._tasks)
        return (*self._operations, *towers), heads

    def _add(self, operation: Operation) -> str:
        self._operations.append(operation)
        return operation.name

    def _gate(self, name: str, x: str, width: int) -> str:
        """γσ(relu(x·w1 + b1)·w2 + b2), `width` columns."""
        hidden = self._config.gate_hidden or width
        w1, b1, w2, b2 = (f"{name}.{tensor}" for tensor in ("w1", "b1", "w2", "b2"))
        first = self._add(Product(name=f"{name}.hidden", x=x, w=w1, b=b1, width=hidden, activation="relu"))
        second = self._add(Product(name=f"{name}.argument", x=first, w=w2, b=b2, width=width))
        return self._add(Gate(name=name, x=second, gamma=self._config.gamma))

    def _delta(self, l: int, width: int, o: str) -> str:
        """δ_l, of one group, or of each group of layers."""
        if l == 0:
            self._add(Concat(name="ppnet.x", of=(Part(source="prior"), Part(source=o))))
        copies = self._groups if self._config.gate_scope == "group" else 1
        delta = self._gate(f"ppnet.{l}.gate", "ppnet.x", copies * width)
        return delta if copies == 1 else self._add(Split(name=f"ppnet.{l}.delta", x=delta, groups=copies))

    def _gated(self, h: str, deltas: list[str], l: int, position: str) -> str:
        if self._config.gate_position != position or l >= len(deltas):
            return h
        return self._add(Multiply(name=f"{'into' if position == 'input' else 'gated'}.{l}", x=h, y=deltas[l]))
