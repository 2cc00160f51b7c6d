"""Scenarios of calls of the extension's cache: rows, lookups of batches, in-flight fetches."""

from __future__ import annotations

import numpy as np

from fuzz.native_arguments import SMALL, Call, Draw, Ref


def _cache(d: Draw, size: int | None = None) -> Call:
    rules = [
        {"table": d.one(0, 1, 5), "ttl": d.one(1.0, 1e9), "share": d.one(0.1, 1.0), "admission": d.one(0.5, 1.0)}
        for _ in range(d.random.choice((0, 0, 1, 2)))
    ]
    return Call(
        "RowCache",
        (d.dim, size or d.one(1 << 17, 1 << 17, 1 << 19), d.one("lru", "gset", "lfu", "sieve", "s3fifo")),
        {
            "dtype": d.one("float32", "float16", "bfloat16", "int8"),
            "max_rows": d.one(0, 1, 7),
            "beta": d.one(0.1, 0.9),
            "r": d.one(3.0),
            "interval": d.one(86400.0, 1e-3),
            "admission": d.one(1.0, 0.5),
            "seed": d.one(0, 3),
            "fields": rules,
        },
    )


def caches(d: Draw) -> list[Call]:
    """Calls of a row cache."""
    r, dim = d.random, d.dim

    def one() -> Call:
        n = d.count = r.choice(SMALL)
        ends = np.array(r.choices((0.0, 1e9, 2e9, np.inf, 4e9), k=9))
        outcomes = {"outcomes": d.maybe(lambda: d.array("u1", n)), "counted": d.one(True, False)}
        calls = (
            lambda: Call(".lookup", (d.keys(), d.array("f4", n, dim)), outcomes),
            lambda: Call(
                ".write",
                (d.keys(), d.array("f4", n, dim)),
                {
                    "scores": d.maybe(lambda: d.array("f4", n)),
                    "versions": d.maybe(lambda: d.array("u8", n)),
                    "expires": d.maybe(lambda: d.array("f8", n, values=ends)),
                    "results": d.maybe(lambda: d.array("u1", n)),
                    "earned": d.maybe(lambda: d.array("?", n)),
                    **{name: d.one(True, False, False) for name in ("update", "restore", "put", "known")},
                },
            ),
            lambda: Call(".forget", (d.keys(),)),
            lambda: Call(".mark_absent", (d.keys(),)),
            lambda: Call(
                ".erase", (d.keys(), d.array("u8", n)), {"expires": d.maybe(lambda: d.array("f8", n, values=ends))}
            ),
            lambda: Call(".feedback", (d.keys(), d.array("?", n))),
            lambda: Call(".peek", (d.keys(),)),
            lambda: Call(".replay", (d.keys(),), {"hits": d.maybe(lambda: d.array("?", n))}),
            lambda: Call(".part", (d.one(0, 1, 2, 63),)),
            lambda: Call(".raise_floor", (d.one(0, 3, 2**64 - 1),)),
            lambda: Call(".clear"),
            lambda: Call(".step_wall_clock", (d.one(0.0, 3600.0, -1e6),)),
            lambda: Call(".set_time", (d.one(0.0, 1e9, 3e9, np.nan, np.inf, -1.0),)),
            lambda: Call(
                r.choice(
                    (
                        ".stats",
                        ".parts",
                        ".floor",
                        ".time",
                        ".capacity_rows",
                        ".memory_bytes",
                        ".policy",
                        ".dtype",
                        ".dim",
                    )
                )
            ),
        )
        return r.choice(calls)()

    return [_cache(d), *(one() for _ in range(r.choice((3, 6, 12))))]


def exact_caches(d: Draw) -> list[Call]:
    """Calls of the exact cache that studies use."""
    r = d.random

    def one() -> Call:
        n = d.count = r.choice(SMALL)
        calls = (
            lambda: Call(".lookup", (d.keys(), d.array("f4", n, 1), d.array("?", n))),
            lambda: Call(".write", (d.keys(), d.array("f4", n)), {"scores": d.maybe(lambda: d.array("f4", n))}),
            lambda: Call(".replay", (d.keys(),), {"hits": d.maybe(lambda: d.array("?", n))}),
            lambda: Call(".feedback", (d.keys(), d.array("?", n))),
            lambda: Call(".scores", (d.keys(),)),
            lambda: Call(".set_time", (d.one(0.0, 1e9, np.nan, np.inf, -1.0),)),
            lambda: Call(r.choice((".capacity_rows", ".__len__"))),
        )
        return r.choice(calls)()

    options = {"beta": d.one(0.1, 0.9), "r": d.one(3.0), "interval": d.one(86400.0, 1e-3)}
    rows = r.choice((1, 2, 7, 40, 0, -1))
    made = Call("studies.ExactCache", (rows, d.one("lru", "gset", "lfu", "sieve", "s3fifo")), options)
    return [made, *(one() for _ in range(r.choice((3, 6, 12))))]


def looks(d: Draw) -> list[Call]:
    """Lookups of batches, through an overlay and a cache."""
    r, dim, n = d.random, d.dim, d.count
    overlay = Call(
        "RowOverlay",
        (d.array("u8", n, values=np.arange(n)), d.array("f4", n, dim)),
        {"gone": d.maybe(lambda: d.array("u1", n, values=[0, 1])), "expires": d.maybe(lambda: d.array("f8", n))},
    )
    asked, bags = r.choice(SMALL), r.choice(SMALL)
    pooled = r.random() < 0.5
    job = (
        d.one(Ref(0)),
        d.one(None, Ref(1)),
        d.array("f4", dim),
        d.keys(asked),
        d.array("f4", bags if pooled else asked, dim),
        d.offsets(bags, asked) if pooled else None,
        d.one("mean", "sum"),
        d.array("u1", asked),
    )
    if d.odd():
        job = r.choice((job[:-1], (*job, None), ()))
    write = Call(".write", (d.keys(), d.array("f4", n, dim)))
    jobs = Call("look_up", ([job] * r.choice((0, 1, 1, 2)), d.one(True, False)))
    return [_cache(d, 1 << 17), overlay, write, jobs, Call("RowOverlay.find", (Ref(1), d.keys(asked)))]


def flights(d: Draw) -> list[Call]:
    """Calls of a table of in-flight fetches."""

    def one(landing: bool) -> Call:
        n = d.count = d.random.choice(SMALL)
        calls = (
            # An update waits for a flight that lands: alone in a process it would wait for ever.
            lambda: Call(".land", (d.keys(n), d.one(1, 2, 3))) if landing else Call(".touch", (d.keys(n),)),
            lambda: Call(".__len__"),
        )
        return d.random.choice(calls)()

    return [Call("FlightTable"), *(one(False) for _ in range(5)), *(one(True) for _ in range(5))]
