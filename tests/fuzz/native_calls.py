"""Scenarios of calls of the extension: what each function and class is given, and in what order."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from small_networks import reading

from fuzz.mutations import NUMBERS, OTHERS, TEXTS
from fuzz.native_arguments import SMALL, Call, Draw, Ref
from fuzz.native_cache_calls import caches, exact_caches, flights, looks
from fuzz.native_held_calls import fetches, file_locks, gates, maps, pins, tallies
from pepnet_infer import _kernels
from pepnet_infer.errors import PepnetError
from pepnet_infer.network.network import Network
from pepnet_infer.schema.network_config import InputWidths


def _functions(d: Draw) -> list[Call]:
    n, dim, r = d.count, d.dim, d.random
    bags, width = r.choice(SMALL), r.choice(("f4", "f4", "f2", "u2"))
    rows = d.array(width, n, dim)
    positions = d.array("i8", r.choice((bags, n)), values=[r.randrange(-1, max(n, 1)) for _ in range(20)])
    size = min(len(positions), 64) if hasattr(positions, "__len__") else 1
    calls = (
        lambda: Call("studies.belady", (d.keys(), d.one(1, 2, 5, 0)), {"hits": d.maybe(lambda: d.array("?", n))}),
        lambda: Call("choose", (d.one("fp32", "bf16", "int8"), d.one("", "auto", "scalar", d.isa))),
        lambda: Call("cpu_budget", (d.one("", "/", "/proc", "/nowhere"),)),
        lambda: Call("distinct", (d.keys(),)),
        lambda: Call("lacking", (d.keys(), d.array("u1", n, values=[0, 1, 2, 1]))),
        lambda: Call("signed_log1p", (d.array("f8", n),)),
        lambda: Call("rows_without_probability", (d.array("f4", n, dim),)),
        lambda: Call(
            "numpy_inside", (d.one([1, [2.5, None]], (np.float32(1), [np.datetime64(1, "s")]), "", {}, None),)
        ),
        lambda: Call("isas"),
        lambda: Call("activations"),
        lambda: Call("build_info"),
        lambda: Call("cpu_info"),
        lambda: Call("ops", (d.one(d.isa, "scalar"), d.one(d.precision, "fp32"))),
        lambda: Call(
            "serve",
            (d.array("f4", n, dim), positions, d.array("i8", size), d.array("f4", dim), d.array("f4", size, dim)),
        ),
        lambda: Call("pool", (rows, d.offsets(bags, n), d.one("mean", "sum"), d.array("f4", bags, dim))),
        lambda: Call(
            "CudaFeatures",
            (
                [
                    (
                        d.one(0, 1, 2),
                        d.maybe(d.keys),
                        d.maybe(lambda: d.offsets(bags, n)),
                        d.maybe(lambda: d.array("f4", n)),
                        d.one(True, False),
                    )
                    for _ in range(r.choice(SMALL[:6]))
                ],
                [d.maybe(lambda: d.array("f4", dim)) for _ in range(r.choice(SMALL[:6]))],
                n,
            ),
        ),
    )
    return [r.choice(calls)()]


def _indexes(d: Draw) -> list[Call]:
    n, dim, r = d.count, d.dim, d.random
    asked = r.choice(SMALL)
    known = d.array("u8", n, values=np.arange(n)) if r.random() < 0.7 else d.keys()
    if r.random() < 0.4:
        return [Call("KeyIndex", (known,)), Call(".find", (d.keys(asked),)), Call(".memory_bytes"), Call(".__len__")]
    bags = r.choice(SMALL)
    return [
        Call("Table", (known, d.array(r.choice(("f4", "f2", "u2")), n, dim), d.array("f4", dim))),
        Call(".lookup", (d.keys(asked), d.array("f4", asked, dim)), {"found": d.maybe(lambda: d.array("?", asked))}),
        Call(".pool", (d.keys(asked), d.offsets(bags, asked), d.one("mean", "sum"), d.array("f4", bags, dim))),
        Call(".index"),
        Call(".__len__"),
        Call(".dim"),
    ]


def _sides(d: Draw) -> list[Call]:
    n, r = d.count, d.random
    ids, dense, bags = (r.choice((0, 1, 2, 3)) for _ in range(3))
    asked, total = r.choice(SMALL), r.choice(SMALL)
    known = d.array("u8", n, values=np.arange(n) * 3)
    lists = [(d.keys(total), d.offsets(n + 1, total)) for _ in range(bags)]
    return [
        Call("SideRows", (known, d.array("u8", n + 1, ids), d.array("f4", n + 1, dense), lists)),
        *(
            Call(
                ".take",
                (
                    d.keys(asked),
                    *(
                        [d.one(*range(m + (r.random() < 0.05) or 1)) for _ in range(r.randrange(m + 1))]
                        for m in (ids, dense, bags)
                    ),
                ),
            )
            for _ in range(2)
        ),
    ]


def _numbers(d: Draw) -> list[Call]:
    n, r = d.count, d.random
    columns, denses = r.choice(SMALL[:6]), r.choice(SMALL[:6])
    uses = [(d.one(*range(max(columns, 1))), d.one(0, 1, 5, 65535)) for _ in range(r.choice(SMALL[:6]))]
    rules = [(d.one(True, False), (d.one(0.0, 2.0), d.one(1.0, 3.0))) for _ in range(denses)]
    kinds = ("u8", "i8", "i4", "u4", "u1", "i2", "f4", "f8")
    return [
        Call("NumberColumns", (columns, uses, rules)),
        *(
            Call(
                ".read",
                (
                    [d.maybe(lambda: d.array(r.choice(kinds[:6]), n)) for _ in range(columns)],
                    [d.maybe(lambda: d.array(r.choice(kinds), n)) for _ in range(denses)],
                    d.one(n),
                ),
            )
            for _ in range(2)
        ),
    ]


def _products(d: Draw) -> list[Call]:
    r, m = d.random, d.count
    k, n = r.choice((1, 2, 5, 16, 33, 64, 70)), r.choice((1, 3, 16, 17, 33))
    ops, packed = (
        Call("ops", (d.isa, d.precision)),
        Call("pack", (d.array("f4", k, n), d.maybe(lambda: d.array("f4", n)), d.precision)),
    )
    named = {
        "mul": d.maybe(lambda: d.array("f4", m, n)),
        "gamma": d.one(1.0, 2.0),
        "gate_a": d.maybe(lambda: d.array("f4", m, k)),
        "gate_packed": d.maybe(lambda: Ref(1)),
    }
    used = {name: value for name, value in named.items() if r.random() < 0.35}
    epilogue = d.one("linear", "relu", "gate", "gate_times", "relu_times", "relu_gated")
    return [
        ops,
        packed,
        Call(".product", (d.array("f4", m, k), Ref(1), epilogue), used),
        r.choice((Call(r.choice((".isa", ".precision", ".how"))), Call("PackedMatrix.bytes.__get__", (Ref(1),)))),
    ]


def _networks(d: Draw) -> list[Call]:
    r, m = d.random, d.count
    flags: dict[str, Any] = {
        "general": r.choice((4, 5, 16)),
        "domain": r.choice((2, 3)),
        "prior": r.choice((3, 1)),
        "experts": r.choice((2, 1, 3)),
        "layers": r.choice(((5,), (6, 3))),
        "towers": r.choice(((), (2,))),
        "tasks": r.choice((2, 1)),
        "backbone": r.choice(("mmoe", "towers")),
        "gate_position": r.choice(("output", "input")),
        "gamma": r.choice((2.0, 1.0)),
        "gate_scope": r.choice(("layer", "group")),
        "gate_hidden": r.choice((None, 3)),
        **{name: r.choice((True, False)) for name in ("epnet_general", "use_epnet", "use_ppnet")},
    }
    network = _network(flags)
    shapes = {} if network is None else network.tensors()
    if sum(map(prod, shapes.values())) >= 1 << 16:
        shapes = {}
    tensors = {name: d.array("f4", *shape) for name, shape in shapes.items()}
    if d.odd() and tensors:
        tensors.pop(r.choice(list(tensors)))
    given = {name: flags.get(name) for name in ("general", "domain", "prior")}
    widths = [width if isinstance(width, int) and 0 <= width < 99 else 1 for width in given.values()]
    limits = ([[d.one(1.0, 3.0)] * width for width in widths], [d.one(1.0, 9.0)] * 3)
    named = {
        "shared": d.one(((), (), ()), ([(0, 2)], [(0, 1)], ()), ([(1, 9)], (), ()), ([(3, 1)], (), [(0, 1)])),
        "block_rows": d.one(0, 1, 7),
        "domain": d.one(None, limits),
        "split": d.one("auto", "rows", "columns"),
    }
    inputs = [d.array("f4", m, width) for width in widths]
    run = {"threads": d.one(1, 1, 1, 2, 3), "spin": d.one(True, False)}
    run |= {name: d.one(False, False, True) for name in ("share", "wide")}
    return [
        Call(
            "DenseModel",
            (tensors, d.one(network), d.isa, d.precision),
            {k: v for k, v in named.items() if r.random() < 0.3},
        ),
        Call(".run", tuple(inputs), {k: v for k, v in run.items() if r.random() < 0.5}),
        Call(r.choice((".describe", ".memory_bytes", ".run_ns", ".outside_rows", ".shared"))),
    ]


def _network(flags: dict[str, Any]) -> _kernels.Network | None:
    """The network of some flags; None where they describe none."""
    widths = InputWidths(flags["general"], flags["domain"], flags["prior"])
    left_out = ("general", "domain", "prior", "tasks")
    try:
        config = reading(widths, **{name: value for name, value in flags.items() if name not in left_out})
        return Network.derived(config, flags["tasks"]).to_native()
    except PepnetError:
        return None


def _lists(d: Draw) -> list[Call]:
    """A list of operations over small inputs, most of them right, and now and then a field of anything."""
    r = d.random
    width = r.choice((2, 4))
    some = [
        {"op": "concat", "name": "x", "of": [{"from": "general"}, {"from": "domain", "begin": 1, "end": 2}]},
        {"op": "product", "name": "h", "x": "x", "w": "h.w", "width": width, "groups": 2, "activation": "relu"},
        {"op": "gate", "name": "g", "x": "h", "gamma": r.choice((2.0, 0.5))},
        {"op": r.choice(("multiply", "add")), "name": "m", "x": "h", "y": "g"},
    ]
    others: list[dict[str, Any]] = [
        {"op": "mix", "name": "mix", "z": "m", "h": "h", "choices": [[0, 1] * (width // 2)] * 2},
        {"op": r.choice(("flatten", "layer_norm", "activate")), "name": "f", "x": r.choice(("m", "h"))},
        {"op": "select", "name": "s", "x": "h", "by": "domain", "column": 1},
        {
            "op": "reduce",
            "name": "r",
            "x": "m",
            "by": r.choice(("sum", "max")),
            "over": r.choice(("groups", "columns")),
        },
        {"op": "cross", "name": "c", "x0": "m", "x": "m", "w": "c.w", "u": "c.u", "rank": 2},
        {"op": "fm", "name": "fm", "v": "h", "width": width},
        {"op": "stack", "name": "st", "of": ["h", "m"]},
        {"op": "pick", "name": "p", "x": "h", "groups": [1, 0, 1]},
        {"op": "affine", "name": "a", "x": "m", "w": "a.w", "b": "a.b", "width": width},
        {"op": "split", "name": "sp", "x": "general", "groups": 2},
    ]
    operations = [*some, *(operation for operation in others if r.random() < 0.4)]
    for operation in operations:
        if d.odd():
            operation[r.choice(list(operation))] = r.choice((*NUMBERS, *OTHERS, *TEXTS))
        if d.odd():
            operation.pop(r.choice(list(operation)))
    heads = [(r.choice(("h", "m", "x")), r.choice(("probability", "identity", "exp", "softmax")))]
    return [
        Call("Network", ([d.one(4, 6), d.one(2, 3), d.one(0, 3)], d.one(operations), d.one(heads))),
        Call(r.choice((".shapes", ".tensors", ".scores"))),
        Call(r.choice((".shapes", ".tensors", ".scores"))),
    ]


#: Those with most in them more often than others.
SCENARIOS: tuple[Callable[[Draw], list[Call]], ...] = (
    *(_functions, _functions, _functions, _indexes, _sides, _numbers, _products, _products, _networks, _lists),
    *(caches, caches, exact_caches, looks, flights, fetches, pins, tallies, maps, gates, file_locks),
)
