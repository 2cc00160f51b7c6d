"""What the row cache's binding refuses, and how it says so; nothing is written where it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pooled_lookup import look_up_bags

from pepnet_infer import _kernels

pytestmark = pytest.mark.hostile

DIM = 3
Arrays = dict[str, Any]


def make(**options: Any) -> _kernels.RowCache:
    return _kernels.RowCache(**({"dim": DIM, "capacity_bytes": 1 << 20} | options))


def arrays(count: int = 4) -> Arrays:
    return {
        "keys": np.arange(count, dtype=np.uint64),
        "out": np.full((count, DIM), -1, np.float32),
        "rows": np.ones((count, DIM), np.float32),
        "outcomes": np.full(count, 9, np.uint8),
        "results": np.full(count, 9, np.uint8),
        "scores": np.ones(count, np.float32),
        "versions": np.ones(count, np.uint64),
        "expires": np.full(count, 1e9),
        "positive": np.ones(count, np.bool_),
        "hits": np.zeros(count, np.bool_),
        "offsets": np.array([0, 2, count], np.int64),
        "pooled": np.zeros((2, DIM), np.float32),
    }


CALLS: dict[str, Callable[[_kernels.RowCache, Arrays], object]] = {
    "lookup": lambda c, a: c.lookup(a["keys"], a["out"], a["outcomes"]),
    "lookup_pool": lambda c, a: look_up_bags(c, a["keys"], a["offsets"], "mean", a["pooled"], a["outcomes"]),
    "write": lambda c, a: c.write(
        a["keys"], a["rows"], a["scores"], a["versions"], a["expires"], True, a["results"]
    ),
    "mark_absent": lambda c, a: c.mark_absent(a["keys"]),
    "erase": lambda c, a: c.erase(a["keys"], a["versions"], a["expires"]),
    "feedback": lambda c, a: c.feedback(a["keys"], a["positive"]),
    "peek": lambda c, a: c.peek(a["keys"]),
    "replay": lambda c, a: c.replay(a["keys"], a["hits"]),
}  # fmt: skip
USED = {
    "lookup": ("out", "outcomes"),
    "lookup_pool": ("offsets", "outcomes"),
    "write": ("rows", "scores", "versions", "expires", "results"),
    "mark_absent": (),
    "erase": ("versions", "expires"),
    "feedback": ("positive",),
    "peek": (),
    "replay": ("hits",),
}
WRITTEN = {"out", "outcomes", "results", "hits"}
VECTORS = [(call, name) for call, names in USED.items() for name in ("keys", *names) if name not in ("out", "rows")]


def gaps(array: np.ndarray) -> np.ndarray:
    wide = np.zeros((len(array), 2), array.dtype)
    wide[:, 0] = array
    return wide[:, 0]


def unaligned(array: np.ndarray) -> np.ndarray:
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
    moved = raw.view(array.dtype).reshape(array.shape)
    moved[:] = array
    return moved


def refused(call: str, given: Arrays, error: type[Exception], message: str) -> None:
    """The call raises, and neither the cache nor a destination has changed."""
    cache = make()
    cache.write(np.arange(2, dtype=np.uint64), np.full((2, DIM), 5, np.float32))
    before = cache.stats()
    kept = {name: np.array(given[name]) for name in ("out", "outcomes", "results", "pooled", "hits")}
    with pytest.raises(error, match=message):
        CALLS[call](cache, given)
    assert cache.stats() == before
    for name, array in kept.items():
        np.testing.assert_array_equal(given[name], array)


@pytest.mark.parametrize(("call", "name"), VECTORS)
def test_vectors_of_a_wrong_kind_are_named(call: str, name: str) -> None:
    good = arrays()
    CALLS[call](make(), good)
    good = arrays()
    other = np.int64 if good[name].dtype != np.int64 else np.int32
    kind = str(good[name].dtype)
    refused(call, good | {name: good[name].astype(other)}, TypeError, rf"^{name}: expected {kind}.*, got int")
    swapped = good[name].astype(good[name].dtype.newbyteorder(">"))
    if good[name].itemsize > 1:
        refused(call, good | {name: swapped}, TypeError, rf"^{name}: expected {kind}, got >")
        moved = good | {name: unaligned(good[name])}
        if name in ("keys", "offsets"):  # read from any address
            CALLS[call](make(), moved)
        else:
            refused(call, moved, ValueError, rf"^{name}: expected ")
    refused(call, good | {name: gaps(good[name])}, ValueError, rf"^{name}: expected .*without gaps.* with gaps")
    square = good[name].reshape(1, -1)
    refused(call, good | {name: square}, ValueError, rf"^{name}: expected .*, got {kind} \[1, {square.size}\]")
    refused(call, good | {name: good[name][:0].reshape(0, 4)}, ValueError, rf"^{name}: expected ")
    if name not in ("keys", "offsets"):
        refused(call, good | {name: good[name][:-1]}, ValueError, rf"^{name}: expected .*\[4\].*, got {kind} \[3\]")
    if name in WRITTEN:
        frozen = good[name].copy()
        frozen.flags.writeable = False
        refused(call, good | {name: frozen}, ValueError, rf"^{name}: expected .*writeable")


def test_destinations_that_do_not_fit_are_refused() -> None:
    good = arrays()
    wide = np.zeros((4, 2 * DIM), np.float32)
    narrow = np.zeros(4 * DIM, np.float32)
    overlap = np.lib.stride_tricks.as_strided(narrow, (4, DIM), (4, 4))
    frozen = np.zeros((4, DIM), np.float32)
    frozen.flags.writeable = False
    for out, error, message in (
        (np.zeros((4, DIM)), TypeError, r"^out: expected float32, got float64 \[4, 3\]"),
        (np.zeros((4, DIM), ">f4"), TypeError, r"^out: expected float32, got >f4"),
        (np.zeros((4, DIM + 1), np.float32), ValueError, r"^out: expected \[4, 3\], got float32 \[4, 4\]"),
        (np.zeros((3, DIM), np.float32), ValueError, r"^out: expected \[4, 3\], got float32 \[3, 3\]"),
        (np.zeros(4 * DIM, np.float32), ValueError, r"^out: expected \[4, 3\], got float32 \[12\]"),
        (wide[:, ::2], ValueError, r"^out: expected writeable, aligned rows without gaps.* with gaps"),
        (np.zeros((DIM, 4), np.float32).T, ValueError, r"^out: expected writeable, aligned rows without gaps"),
        (unaligned(np.zeros((4, DIM), np.float32)), ValueError, r"^out: expected writeable, aligned"),
        (frozen, ValueError, r"^out: expected writeable"),
        (overlap, ValueError, r"^out: expected rows that do not overlap"),
    ):
        refused("lookup", good | {"out": out}, error, message)
    refused("lookup_pool", good | {"pooled": np.zeros((3, DIM), np.float32)}, ValueError, r"^out: expected \[2, 3\]")


def test_rows_that_do_not_fit_are_refused() -> None:
    good = arrays()
    for rows, error, message in (
        (np.ones((4, DIM)), TypeError, r"^rows: expected float32, got float64 \[4, 3\]"),
        (np.ones((4, DIM - 1), np.float32), ValueError, r"^rows: expected \[4, 3\], got float32 \[4, 2\]"),
        (np.ones((5, DIM), np.float32), ValueError, r"^rows: expected \[4, 3\], got float32 \[5, 3\]"),
        (np.ones((4, 2 * DIM), np.float32)[:, ::2], ValueError, r"^rows: expected aligned"),
        (np.ones((4, DIM), np.float32)[::-1], ValueError, r"^rows: expected aligned .* in ascending order"),
        (np.ones(4 * DIM, np.float32), ValueError, r"^rows: expected aligned"),
        (unaligned(np.ones((4, DIM), np.float32)), ValueError, r"^rows: expected aligned"),
    ):
        refused("write", good | {"rows": rows}, error, message)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([], "^offsets: expected one more entry than there are bags, got none"),
        ([0, 3, 2], r"^offsets: expected ascending values from 0 to 4, got 3 then 2 at 2"),
        ([0, 2, 5], r"^offsets: expected ascending values from 0 to 4, got 2 then 5 at 2"),
        ([-1, 2, 4], r"^offsets: expected ascending values from 0 to 4, got -1 at 0"),
        ([0, 2, 2**62], r"^offsets: expected ascending"),
        ([0, -(2**63), 4], r"^offsets: expected ascending"),
    ],
)
def test_offsets_that_lead_astray_are_refused(offsets: list[int], message: str) -> None:
    given = arrays() | {
        "offsets": np.array(offsets, np.int64),
        "pooled": np.zeros((max(0, len(offsets) - 1), DIM), "f4"),
    }
    refused("lookup_pool", given, ValueError, message)


def test_a_pooling_that_is_not_known_is_refused() -> None:
    given = arrays()
    with pytest.raises(ValueError, match=r"^pooling: expected mean or sum, got 'max'"):
        look_up_bags(make(), given["keys"], given["offsets"], "max", given["pooled"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "^dim: expected 1 to 65536, got 0"),
        ({"dim": 65537}, "^dim: expected 1 to 65536, got 65537"),
        ({"capacity_bytes": 0}, r"^capacity_bytes: expected at least \d+ .*, got 0"),
        ({"capacity_bytes": 500, "dim": 65536}, r"^capacity_bytes: expected at least \d+ .*, got 500"),
        ({"policy": "fifo"}, "^policy: expected lru, gset, lfu, sieve or s3fifo, got 'fifo'"),
        ({"dtype": "float64"}, "^dtype: expected float32, float16, bfloat16 or int8, got 'float64'"),
        ({"beta": 0.0}, "^beta: expected between 0 and 1, got 0"),
        ({"beta": 1.0}, "^beta: expected between 0 and 1, got 1"),
        ({"beta": float("nan")}, "^beta: expected between 0 and 1, got nan"),
        ({"r": 0.0}, "^r: expected a number above 0, got 0"),
        ({"r": float("inf")}, "^r: expected a number above 0, got inf"),
        ({"interval": 0.0}, "^interval: expected seconds above 0, got 0"),
        ({"interval": float("nan")}, "^interval: expected seconds above 0, got nan"),
        ({"admission": -0.1}, "^admission: expected 0 to 1, got -0.1"),
        ({"admission": 1.5}, "^admission: expected 0 to 1, got 1.5"),
        ({"admission": float("nan")}, "^admission: expected 0 to 1, got nan"),
        ({"tombstone_ttl": 0.0}, "^tombstone_ttl: expected seconds above 0, got 0"),
        ({"negative_ttl": -1.0}, "^negative_ttl: expected seconds above 0, got -1"),
        ({"fields": [{}]}, "^fields: expected a table in every rule"),
        ({"fields": [{"ttll": 3}]}, "^fields: expected table, .*, got 'ttll'"),
        ({"fields": [{"table": 70000}]}, "^fields: table: expected 0 to 65535, got 70000"),
        ({"fields": [{"table": -1}]}, "^fields: table: expected 0 to 65535, got -1"),
        ({"fields": [{"table": 1, "tll": 3.0}]}, "^fields: expected table, .*, got 'tll'"),
        ({"fields": [{"table": 1}, {"table": 1}]}, r"^fields\[1\]: expected one rule a table, got two for 1"),
        ({"fields": [{"table": 1, "ttl": 0.0}]}, r"^fields\[0\]: ttl: expected more than 0 s"),
        ({"fields": [{"table": 1, "ttl": float("nan")}]}, r"^fields\[0\]: ttl: expected more than 0 s"),
        ({"fields": [{"table": 1, "share": 0.0}]}, r"^fields\[0\]: share: expected above 0 and at most 1"),
        ({"fields": [{"table": 1, "share": 1.1}]}, r"^fields\[0\]: share: expected above 0 and at most 1"),
        ({"fields": [{"table": 1, "admission": 1.1}]}, r"^fields\[0\]: admission: expected at most 1"),
        ({"fields": [{"table": 1, "admission": float("nan")}]}, r"^fields\[0\]: admission: expected at most 1"),
    ],
)
def test_options_that_are_off_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    "options", [{"dim": -1}, {"capacity_bytes": -5}, {"max_rows": -1}, {"dim": 2**70}, {"dim": 1.5}]
)
def test_numbers_of_a_wrong_kind_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="incompatible constructor arguments"):
        make(**options)


def test_more_memory_than_there_can_be_is_an_error() -> None:
    with pytest.raises(MemoryError):
        make(capacity_bytes=2**62)


def test_a_part_that_is_not_there_is_refused() -> None:
    cache = make()
    with pytest.raises(ValueError, match=rf"^index: expected below {cache.parts}, got {cache.parts}"):
        cache.part(cache.parts)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        cache.part(-1)


@pytest.mark.parametrize("policy", ["lru", "gset", "lfu", "sieve", "s3fifo"])
def test_nothing_is_fine(policy: _kernels.CachePolicy) -> None:
    cache, none = (
        make(policy=policy),
        arrays(0) | {"offsets": np.zeros(1, np.int64), "pooled": np.zeros((0, DIM), "f4")},
    )
    for call in CALLS.values():
        call(cache, none)
    pooled = np.full((2, DIM), -1, np.float32)
    assert look_up_bags(cache, none["keys"], np.zeros(3, np.int64), "sum", pooled) == 0
    assert (pooled == 0).all()
    assert sum(cache.stats().values()) == 0


@pytest.mark.parametrize("policy", ["lru", "gset", "lfu", "sieve", "s3fifo"])
def test_any_numbers_are_lived_with(policy: _kernels.CachePolicy) -> None:
    """Scores, deadlines and clocks of any value: nothing hangs or crashes, and what is served is whole."""
    cache = make(policy=policy, max_rows=64, fields=[{"table": 0xFFFF, "ttl": 1e300, "share": 1e-9}])
    ends = [0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, -1e300, np.inf, -np.inf, np.nan, 2.0**63, -(2.0**63), 1.7e9]
    rng = np.random.default_rng(0)
    keys = np.array([0, 1, 2**64 - 1, 2**63, 2**48 - 1, 2**48], np.uint64)
    out, result = np.zeros((6, DIM), np.float32), np.zeros(6, np.uint8)
    for clock in [*ends, 1000.0]:
        cache.set_time(clock)
        for _ in range(20):
            with np.errstate(over="ignore"):
                scores = rng.choice(ends, 6).astype(np.float32)
            versions = rng.choice(np.array([0, 1, 2**63, 2**64 - 1], np.uint64), 6)
            update = bool(rng.random() < 0.5)
            cache.write(keys, np.full((6, DIM), 3, np.float32), scores, versions, rng.choice(ends, 6), update)
            cache.lookup(keys, out, result)
            assert (out[result == 1] == 3).all()
            cache.feedback(keys, rng.random(6) < 0.5)
            cache.erase(rng.choice(keys, 2), versions[:2], rng.choice(ends, 2))
            cache.mark_absent(keys)
            cache.peek(keys)
            for part in range(cache.parts):
                assert len(cache.part(part)["keys"]) <= 6
