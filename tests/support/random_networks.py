"""Random lists of operations, every one of them legal, with weights whose scores vary: for tests of what runs lists."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.network import operations as ops
from pepnet_infer.network.network import Network
from pepnet_infer.schema.network_config import InputWidths

#: Functions that a layer may end with.
_FUNCTIONS = ops.FUNCTIONS


class RandomNetwork:
    """Draws a list: `network`, and weights for it by name.

    Values stay of a size near 1: what multiplies, sums or grows is followed by a layer of normalised weights.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._widths = InputWidths(self._size(40), self._size(9), self._size(12))
        self._shapes: dict[str, tuple[int, int]] = {
            "general": (1, self._widths.general),
            "domain": (1, self._widths.domain),
            "prior": (1, self._widths.prior),
        }
        self._operations: list[ops.Operation] = []
        self._add_products(2)
        for _ in range(self._random.randint(1, 9)):
            self._add(self._random.choice(_KINDS))
        heads = self._heads()
        self.network = Network(self._widths, tuple(self._operations), heads)

    def tensors(self, seed: int) -> dict[str, npt.NDArray[np.float32]]:
        """Returns weights: matrices that keep a variance of 1, small biases, scales near 1."""
        draw = np.random.default_rng(seed)
        found = {}
        for name, shape in self.network.tensors.items():
            values = draw.standard_normal(shape)
            if name.endswith(".scale"):
                values = 1 + 0.2 * values
            else:
                values *= (1.0 / shape[-2]) ** 0.5 if len(shape) > 1 else 0.2
            found[name] = values.astype(np.float32)
        return found

    def inputs(self, rows: int, seed: int) -> tuple[npt.NDArray[np.float32], ...]:
        """Returns standard normal inputs; a column that selects has numbers of groups."""
        draw = np.random.default_rng(seed)
        given = {n: draw.standard_normal((rows, w), dtype=np.float32) for n, (_, w) in list(self._shapes.items())[:3]}
        for operation in self._operations:
            if isinstance(operation, ops.Select):
                groups = self._shapes[operation.x][0]
                given[operation.by][:, operation.column] = draw.integers(0, groups, rows)
        return given["general"], given["domain"], given["prior"]

    def _size(self, most: int) -> int:
        return self._random.choice((1, 2, 3, 5, 7, 15, 16, 17, 31, 33, 40)) % most + 1

    def _take(self, *, groups: int | None = None) -> str:
        """A value: rather a late one, so that lists are deep."""
        there = [n for n, (g, _) in self._shapes.items() if groups is None or g == groups]
        return there[min(len(there) - 1, int(len(there) * self._random.random() ** 0.5))]

    def _put(self, kind: type[ops.Operation], shape: tuple[int, int], **fields: Any) -> str:
        name = f"{kind.op}{len(self._operations)}"
        self._operations.append(kind(name=name, **fields))
        self._shapes[name] = shape
        return name

    def _add_products(self, count: int) -> None:
        for _ in range(count):
            self._add("product")

    def _activation(self, name: str) -> dict[str, Any]:
        function = self._random.choice(("identity", "relu", *_FUNCTIONS))
        fields: dict[str, Any] = {"activation": function}
        if function in ("leaky_relu", "elu") and self._random.random() < 0.5:
            fields["alpha"] = 0.3
        if function == "prelu":
            fields["slope"] = f"{name}.slope"
        return fields

    def _add(self, kind: str) -> None:
        getattr(self, f"_{kind}")()

    def _layer(self, x: str, width: int, groups: int | None, **more: Any) -> str:
        name = f"w{len(self._operations)}"
        bias = {"b": f"{name}.b"} if self._random.random() < 0.8 else {}
        of = self._shapes[x][0]
        shape = (of if groups is None else groups, width)
        return self._put(ops.Product, shape, x=x, w=f"{name}.w", width=width, groups=groups, **bias, **more)

    def _product(self) -> None:
        x = self._take()
        of = self._shapes[x][0]
        groups = self._random.choice((None, of if of > 1 else self._size(9)))
        self._layer(x, self._size(40), groups, **self._activation(f"a{len(self._operations)}"))

    def _concat(self) -> None:
        groups = self._random.choice([g for g, _ in self._shapes.values()])
        parts, width = [], 0
        for _ in range(self._random.randint(1, 4)):
            x = self._take(groups=self._random.choice((1, groups)))
            n = self._shapes[x][1]
            begin = self._random.choice((0, 0, self._random.randrange(n)))
            end = self._random.choice((n, n, self._random.randint(begin + 1, n)))
            parts.append(ops.Part(source=x, begin=begin, end=end))
            width += end - begin
        together = max(self._shapes[part.source][0] for part in parts)
        self._put(ops.Concat, (together, width), of=tuple(parts))

    def _stack(self) -> None:
        x = self._take()
        same = [n for n, (g, w) in self._shapes.items() if w == self._shapes[x][1] and g + self._shapes[x][0] <= 9]
        names = (x, *self._random.sample(same, min(len(same), 1)))
        self._put(ops.Stack, (sum(self._shapes[n][0] for n in names), self._shapes[x][1]), of=names)

    def _split(self) -> None:
        groups, width = self._random.randint(1, 9), self._size(17)
        x = self._layer(self._take(groups=1), groups * width, None)
        self._put(ops.Split, (groups, width), x=x, groups=groups)

    def _flatten(self) -> None:
        x = self._take()
        groups, width = self._shapes[x]
        self._put(ops.Flatten, (1, groups * width), x=x)

    def _pick(self) -> None:
        x = self._take()
        groups = tuple(self._random.randrange(self._shapes[x][0]) for _ in range(self._random.randint(1, 9)))
        self._put(ops.Pick, (len(groups), self._shapes[x][1]), x=x, groups=groups)

    def _activate(self) -> None:
        x = self._take()
        self._put(ops.Activate, self._shapes[x], x=x, **self._activation(f"a{len(self._operations)}"))

    def _gate(self) -> None:
        x = self._take()
        self._put(ops.Gate, self._shapes[x], x=x, gamma=self._random.choice((2.0, 1.0, 0.5)))

    def _gated(self) -> None:
        """What PEPNet does: a layer, and a gate on it with as many groups or one, or one that is split."""
        x, groups, width = self._take(), self._random.randint(1, 9), self._size(33)
        one = self._shapes[x][0] == 1
        h = self._layer(x, width, groups if one else None, activation=self._random.choice(("relu", "silu", "identity")))
        groups = self._shapes[h][0]
        way = self._random.choice(("shared", "grouped", "split"))
        of_gate = self._take(groups=1)
        if way == "split":
            argument = self._layer(of_gate, groups * width, None)
            gate = self._put(ops.Gate, (1, groups * width), x=argument)
            gate = self._put(ops.Split, (groups, width), x=gate, groups=groups)
        else:
            argument = self._layer(of_gate, width, groups if way == "grouped" else None)
            gate = self._put(ops.Gate, self._shapes[argument], x=argument, gamma=1.5)
        pair = self._random.sample((h, gate), 2)
        self._put(ops.Multiply, (groups, width), x=pair[0], y=pair[1])

    def _elementwise(self) -> None:
        x = self._take()
        groups, width = self._shapes[x]
        fits = [n for n, (g, w) in self._shapes.items() if (g in (1, groups) or groups == 1) and w in (1, width)]
        y = self._random.choice(fits)
        shape = (max(groups, self._shapes[y][0]), max(width, self._shapes[y][1]))
        kind = self._random.choice((ops.Multiply, ops.Add))
        pair = self._random.sample((x, y), 2)
        self._put(kind, shape, x=pair[0], y=pair[1])

    def _residual(self) -> None:
        x = self._take()
        y = self._layer(x, self._shapes[x][1], None, activation=self._random.choice(("relu", "identity")))
        self._put(ops.Add, self._shapes[x], x=y, y=x)

    def _affine(self) -> None:
        x = self._take()
        width = self._shapes[x][1] if self._shapes[x][1] > 1 else self._size(9)
        name = f"s{len(self._operations)}"
        bias = {"b": f"{name}.b"} if self._random.random() < 0.5 else {}
        self._put(ops.Affine, (self._shapes[x][0], width), x=x, w=f"{name}.scale", width=width, **bias)

    def _mix(self) -> None:
        h = self._take()
        experts, width = self._shapes[h]
        tasks, count = self._random.randint(1, 5), self._random.choice((experts, self._random.randint(1, 9)))
        way = self._random.choice(("split", "grouped"))
        x = self._take(groups=1)
        if way == "split":
            z = self._put(ops.Split, (tasks, count), x=self._layer(x, tasks * count, None), groups=tasks)
        else:
            z = self._layer(x, count, tasks)
        choices = None
        if count != experts or self._random.random() < 0.3:
            choices = tuple(tuple(self._random.randrange(experts) for _ in range(count)) for _ in range(tasks))
        self._put(ops.Mix, (tasks, width), z=z, h=h, choices=choices)

    def _cross(self) -> None:
        x = self._take()
        width, name = self._shapes[x][1], f"c{len(self._operations)}"
        same = [n for n, shape in self._shapes.items() if shape == self._shapes[x]]
        low = {"u": f"{name}.u", "rank": self._size(5)} if self._random.random() < 0.5 else {}
        bias = {"b": f"{name}.b"} if self._random.random() < 0.5 else {}
        x0 = self._random.choice(same)
        del width
        self._put(ops.Cross, self._shapes[x], x0=x0, x=x, w=f"{name}.w", **low, **bias)

    def _fm(self) -> None:
        v = self._take()
        width, fields = self._shapes[v][1], {}
        if self._random.random() < 0.5:
            fields = {"x": self._take(groups=1), "w": f"f{len(self._operations)}.w"}
        both = {"v": v, **fields} if not fields or self._random.random() < 0.5 else fields
        self._put(ops.Fm, (1, width), width=width, **both)

    def _reduce(self) -> None:
        x, over = self._take(), self._random.choice(("groups", "columns"))
        groups, width = self._shapes[x]
        shape = (1, width) if over == "groups" else (groups, 1)
        self._put(ops.Reduce, shape, x=x, by=self._random.choice(("sum", "mean", "max")), over=over)

    def _layer_norm(self) -> None:
        x, name = self._take(), f"n{len(self._operations)}"
        fields = {"w": f"{name}.scale", "b": f"{name}.b"} if self._random.random() < 0.6 else {}
        # Of one or two columns it is a step from -1 to 1: no float32 of a sum tells on which side.
        if self._shapes[x][1] > 4:
            self._put(ops.LayerNorm, self._shapes[x], x=x, eps=1e-2, **fields)

    def _select(self) -> None:
        if any(isinstance(operation, ops.Select) for operation in self._operations):
            return  # columns of groups' numbers for two would have to agree
        x = self._take()
        column = self._random.randrange(self._widths.domain)
        self._put(ops.Select, (1, self._shapes[x][1]), x=x, by="domain", column=column)

    def _pairs(self) -> None:
        """Of a few groups that are as long as vectors of a normal distribution: their products are of a size near 1."""
        groups = self._random.randint(2, 5)
        name = self._layer(self._take(groups=1), self._size(17), groups)
        self._put(ops.Pairs, (1, groups * (groups - 1) // 2), x=name)

    def _heads(self) -> tuple[ops.Head, ...]:
        """One or two heads over layers of normalised weights, or over whatever there is for probabilities."""
        heads = []
        for _ in range(self._random.randint(1, 2)):
            kind = self._random.choice(("probability", "probability", "identity", "exp", "softmax"))
            x, groups = self._take(), None
            if self._shapes[x][0] == 1:
                groups = self._random.choice((None, self._random.randint(1, 4)))
            x = self._put(ops.LayerNorm, self._shapes[x], x=x, eps=1.0)
            of = self._layer(x, self._random.choice((1, 1, 2, 5)), groups)
            heads.append(ops.Head(of=of, kind=kind))
        return tuple(heads)


_KINDS = (
    *("product", "product", "concat", "stack", "split", "flatten", "pick", "activate", "gate", "gated", "gated"),
    *("elementwise", "residual", "affine", "mix", "cross", "fm", "reduce", "layer_norm", "select", "pairs"),
)
