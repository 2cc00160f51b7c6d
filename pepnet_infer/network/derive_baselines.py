"""The lists of operations of the baselines, from their flags; `export/model/baselines.py` has their formulas."""

from __future__ import annotations

from collections.abc import Callable

from pepnet_infer.network.derive_pepnet import layer, tower_operations
from pepnet_infer.network.operations import (
    Add,
    Affine,
    Concat,
    Cross,
    Flatten,
    Fm,
    Head,
    Mix,
    Operation,
    Part,
    Pick,
    Product,
    Reduce,
    Split,
    Stack,
)
from pepnet_infer.schema.baseline_flags import DcnExtra, DeepFmExtra, PleExtra, read_extra
from pepnet_infer.schema.network_config import ModelConfig

Listed = tuple[tuple[Operation, ...], tuple[Head, ...]]


def baseline_operations(config: ModelConfig, tasks: int) -> Listed:
    """Returns operations and heads of the baseline `config.model` with `tasks` targets."""
    return _BASELINES[config.model](config, tasks)


def _x(config: ModelConfig) -> list[Operation]:
    """x = [general ; domain], which all of them read."""
    widths = config.inputs
    sources = ("general", "domain") if widths.domain > 0 else ("general",)
    return [Concat(name="x", of=tuple(Part(source=source) for source in sources))]


def _stacks(name: str, x: str, widths: tuple[int, ...], groups: int) -> list[Operation]:
    """ReLU layers of so many groups over x."""
    operations: list[Operation] = []
    for i, width in enumerate(widths):
        operations.append(layer(f"{name}.{i}", x, width, groups))
        x = operations[-1].name
    return operations


def _shared_bottom(config: ModelConfig, tasks: int) -> Listed:
    bottom = _stacks("bottom", "x", config.layers, 1)
    towers, heads = tower_operations(bottom[-1].name, config.towers, tasks)
    return (*_x(config), *bottom, *towers), heads


def _mmoe(config: ModelConfig, tasks: int) -> Listed:
    experts = _stacks("experts", "x", config.layers, config.experts)
    logits = layer("mix", "x", tasks * config.experts, relu=False)
    z = Split(name="mix.logits", x=logits.name, groups=tasks)
    m = Mix(name="m", z=z.name, h=experts[-1].name)
    towers, heads = tower_operations(m.name, config.towers, tasks)
    return (*_x(config), *experts, logits, z, m, *towers), heads


def _ple(config: ModelConfig, tasks: int) -> Listed:
    extra = read_extra(config, PleExtra)
    own, shared = tasks * extra.specific, extra.shared
    by_task = tuple(
        (*range(t * extra.specific, (t + 1) * extra.specific), *range(own, own + shared)) for t in range(tasks)
    )
    operations, x, common = _x(config), "x", "x"
    for level in range(extra.levels):
        name = f"levels.{level}"
        into = x
        if level > 0 and extra.specific > 1:
            groups = tuple(t for t in range(tasks) for _ in range(extra.specific))
            operations.append(Pick(name=f"{name}.into", x=x, groups=groups))
            into = operations[-1].name
        operations += _stacks(f"{name}.task_experts", into, config.layers, own)
        specific = operations[-1].name
        operations += _stacks(f"{name}.shared_experts", common, config.layers, shared)
        h = Stack(name=f"{name}.experts", of=(specific, operations[-1].name))
        z = layer(f"{name}.task_gates", x, extra.specific + shared, tasks, relu=False)
        m = Mix(name=f"{name}.m", z=z.name, h=h.name, choices=by_task)
        operations += (h, z, m)
        if level < extra.levels - 1:
            of_all = layer(f"{name}.shared_gate", common, own + shared, 1, relu=False)
            passed = Mix(name=f"{name}.common", z=of_all.name, h=h.name)
            operations += (of_all, passed)
            common = passed.name
        x = m.name
    towers, heads = tower_operations(x, config.towers, tasks)
    return (*operations, *towers), heads


def _dcnv2(config: ModelConfig, tasks: int) -> Listed:
    extra = read_extra(config, DcnExtra)
    operations, x = _x(config), "x"
    for l in range(extra.cross_layers):
        low = extra.rank is not None
        u, w = (f"cross.u.{l}", f"cross.v.{l}") if low else (None, f"cross.u.{l}")
        operations.append(Cross(name=f"cross.{l}", x0="x", x=x, w=w, b=f"cross.b.{l}", u=u, rank=extra.rank))
        x = operations[-1].name
    operations += _stacks("deep", "x", config.layers, 1)
    both = Concat(name="both", of=(Part(source=x), Part(source=operations[-1].name)))
    towers, heads = tower_operations(both.name, config.towers, tasks)
    return (*operations, both, *towers), heads


def _deepfm(config: ModelConfig, tasks: int) -> Listed:
    extra = read_extra(config, DeepFmExtra)
    operations = _x(config)
    slots, start = [], 0
    for i, width in enumerate(extra.slots):
        operations.append(Concat(name=f"slot.{i}", of=(Part(source="x", begin=start, end=start + width),)))
        start += width
        if width != extra.field_width:
            name = f"project.{i}"
            operations.append(Product(name=name, x=operations[-1].name, w=name, width=extra.field_width))
        slots.append(operations[-1].name)
    vectors = None
    if slots:
        operations.append(Stack(name="slots", of=tuple(slots)))
        vectors = "slots"
    rest = {}
    if start < config.inputs.general + config.inputs.domain:
        operations.append(Concat(name="others", of=(Part(source="x", begin=start),)))
        rest = {"x": "others", "w": "rest"}
    fm = Fm(name="fm", v=vectors, width=extra.field_width, **rest)
    pairs = Reduce(name="interactions", x=fm.name, by="sum", over="columns")
    scaled = Affine(name="scaled", x=pairs.name, w="scale", width=tasks)
    linear = Product(name="first_order", x="x", w="linear", b="bias", width=tasks)
    operations += (fm, pairs, scaled, linear)
    operations += _stacks("deep", "x", config.layers, 1)
    towers, _ = tower_operations(operations[-1].name, config.towers, tasks)
    deep = Flatten(name="deep", x=towers[-1].name)
    wide = Add(name="wide", x=linear.name, y=scaled.name)
    logits = Add(name="logits", x=wide.name, y=deep.name)
    return (*operations, *towers, deep, wide, logits), (Head(of=logits.name, kind="probability"),)


_BASELINES: dict[str, Callable[[ModelConfig, int], Listed]] = {
    "deepfm": _deepfm,
    "dcnv2": _dcnv2,
    "shared_bottom": _shared_bottom,
    "mmoe": _mmoe,
    "ple": _ple,
}
