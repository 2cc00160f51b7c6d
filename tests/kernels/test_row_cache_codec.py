"""Rows as the cache keeps them, against float64: every pattern of the short formats, every width, any destination."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from pooled_lookup import look_up_bags

from pepnet_infer import _kernels

pytestmark = pytest.mark.parity

Floats = npt.NDArray[np.float32]
DTYPES = ("float32", "float16", "bfloat16", "int8")
MOST = float(np.finfo(np.float32).max)
HALVES: Floats = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
BFLOATS: Floats = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)


def through(rows: Floats, dtype: str) -> Floats:
    """The rows written and looked up again."""
    cache = _kernels.RowCache(rows.shape[1], 8 << 20, "lru", dtype)
    keys = np.arange(len(rows), dtype=np.uint64)
    assert cache.write(keys, rows) == len(rows) < cache.capacity_rows / 2
    out = np.full_like(rows, 12345.0)
    outcomes = np.zeros(len(rows), np.uint8)
    found = cache.lookup(keys, out, outcomes)
    assert found > 0.99 * len(rows)
    there = outcomes == 1
    # What a full set has lost is written again, and found then.
    for at in np.flatnonzero(~there):
        cache.write(keys[at : at + 1], rows[at : at + 1])
        assert cache.lookup(keys[at : at + 1], out[at : at + 1]) == 1
    return out


def nearest(values: Floats, table: Floats) -> Floats:
    """Of the numbers a format has, each value's nearest in float64; of two as near the one whose code is even."""
    codes = np.flatnonzero(np.isfinite(table) & ~np.signbit(table))
    exact = table[codes].astype(np.float64)
    # Beyond the last comes what would be the next, which stands for infinity.
    step = exact[-1] - exact[-2]
    exact, codes = np.append(exact, exact[-1] + step), np.append(codes, codes[-1] + 1)
    size = np.abs(values.astype(np.float64))
    high = np.clip(np.searchsorted(exact, size), 1, len(exact) - 1)
    below, above = size - exact[high - 1], exact[high] - size
    take_high = (above < below) | ((above == below) & (codes[high] % 2 == 0))
    picked = np.where(take_high, high, high - 1)
    result = np.where(picked == len(exact) - 1, np.inf, exact[picked])
    return np.copysign(result, values).astype(np.float32)


def same_bits(got: Floats, expected: Floats) -> None:
    """Equal to the bit, but for what a NaN says beside that it is one."""
    both = np.isnan(got) & np.isnan(expected)
    np.testing.assert_array_equal(got.view(np.uint32)[~both], expected.view(np.uint32)[~both])
    assert (np.isnan(got) == np.isnan(expected)).all()


def any_floats(count: int, seed: int) -> Floats:
    """Any patterns of bits: subnormals, infinities and NaN among them; and values about the short formats' own."""
    rng = np.random.default_rng(seed)
    wild = rng.integers(0, 1 << 32, count, np.uint64).astype(np.uint32).view(np.float32)
    with np.errstate(over="ignore"):
        tame = (rng.standard_normal(count) * np.exp2(rng.uniform(-30, 18, count))).astype(np.float32)
    return np.concatenate([wild, tame])


@pytest.mark.parametrize(("dtype", "table"), [("float16", HALVES), ("bfloat16", BFLOATS)])
def test_every_short_number_comes_back(dtype: str, table: Floats) -> None:
    same_bits(through(table.reshape(-1, 64), dtype).ravel(), table)


@pytest.mark.parametrize(("dtype", "table"), [("float16", HALVES), ("bfloat16", BFLOATS)])
def test_rounding_is_to_the_nearest_even(dtype: str, table: Floats) -> None:
    """About every number of the format: the middle to the next one, and a float32 to either side of it."""
    finite = np.sort(table[np.isfinite(table) & ~np.signbit(table)]).astype(np.float64)
    middle = ((finite[:-1] + finite[1:]) / 2).astype(np.float32)  # exact: one bit more
    last = np.float32(finite[-1] + (finite[-1] - finite[-2]) / 2)
    around = np.concatenate([middle, [last]])
    values = np.concatenate([around, np.nextafter(around, np.float32(0)), np.nextafter(around, np.float32(np.inf))])
    values = np.concatenate([values, -values])
    values = values[: len(values) // 64 * 64]
    got = through(values.reshape(-1, 64), dtype).ravel()
    finite_values = np.isfinite(values)
    same_bits(got[finite_values], nearest(values[finite_values], table))
    if dtype == "float16":
        with np.errstate(over="ignore"):
            same_bits(got, values.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(("dtype", "table"), [("float16", HALVES), ("bfloat16", BFLOATS)])
def test_random_floats_are_rounded(dtype: str, table: Floats) -> None:
    values = any_floats(64_000, 3)
    got = through(values.reshape(-1, 64), dtype).ravel()
    finite = np.isfinite(values)
    same_bits(got[finite], nearest(values[finite], table))
    same_bits(got[~finite], values[~finite])


def test_float32_is_kept_to_the_bit() -> None:
    values = any_floats(64_000, 4)
    got = through(values.reshape(-1, 64), "float32").ravel()
    np.testing.assert_array_equal(got.view(np.uint32), values.view(np.uint32))


def int8_bound(rows: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What an int8 row should say in float64, and how far it may be off: half a step, and float32's rounding of the
    scale (relative 2^-24, absolute half of 2^-149) in up to 127 steps, of the quotient and of the product."""
    with np.errstate(invalid="ignore"):  # of signalling NaN
        exact = rows.astype(np.float64)
    largest = np.max(np.where(np.isfinite(exact), np.abs(exact), 0), axis=1, keepdims=True)
    target = np.where(np.isnan(exact), 0, np.clip(exact, -largest, largest))
    return target, largest / 254 * (1 + 2**-15) + 128 * 2.0**-149


def test_int8_is_within_half_a_step() -> None:
    rng = np.random.default_rng(5)
    rows = (rng.standard_normal((2000, 33)) * np.exp2(rng.uniform(-145, 120, (2000, 1)))).astype(np.float32)
    target, bound = int8_bound(rows)
    got = through(rows, "int8").astype(np.float64)
    assert (np.abs(got - target) <= bound).all()
    # Each row's largest number is kept as well as float32 can say it.
    largest = np.abs(target).max(axis=1)
    normal = largest > 1e-35
    np.testing.assert_allclose(np.abs(got).max(axis=1)[normal], largest[normal], rtol=2**-22)


def test_int8_of_what_is_no_number() -> None:
    inf, nan = np.inf, np.nan
    rows = np.array(
        [[1, -2, inf], [1, -2, -inf], [nan, 1, 2], [0, 0, 0], [inf, -inf, nan], [-0.0, 0, nan], [1e-45, 0, 0]],
        np.float32,
    )
    got = through(rows, "int8")
    expected = [[1, -2, 2], [1, -2, -2], [0, 1, 2], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(got, expected, atol=2 / 254 * (1 + 1e-4))
    assert got[0, 2] == got[0, 1] * -1
    wild = any_floats(33_000, 6).reshape(-1, 33)
    wild[np.abs(wild) > MOST / 2] = 1.0  # the next test's
    target, bound = int8_bound(wild)
    assert (np.abs(through(wild, "int8") - target) <= bound).all()


def test_int8_of_the_largest_number_is_finite() -> None:
    rows = np.array([[MOST, -MOST, 0.0]], np.float32)
    np.testing.assert_allclose(through(rows, "int8"), rows, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_width_and_any_destination(dtype: str) -> None:
    """Widths 1 to 67: nothing beside the row is written, with and without gaps between rows, and backwards."""
    rng = np.random.default_rng(8)
    keys = rng.integers(0, 2**64, 20, np.uint64)
    asked = keys[rng.integers(0, 20, 50)]
    asked[::7] = 5  # not there
    for dim in range(1, 68):
        cache = _kernels.RowCache(dim, 1 << 20, "gset", dtype)
        rows = rng.integers(-120, 121, (20, dim)).astype(np.float32)
        rows[:, 0] = 127  # int8: a scale of 1
        wide = np.full((20, 2 * dim), np.nan, np.float32)
        wide[:, :dim] = rows
        assert cache.write(keys, wide[:, :dim]) == 20
        at = {int(key): i for i, key in enumerate(keys)}
        for pad in (0, 1, 13):
            whole = np.full((50, dim + 2 * pad), -7.0, np.float32)
            out = whole[:, pad : pad + dim] if pad != 1 else whole[::-1, pad : pad + dim]
            expected = whole.copy()
            view = expected[:, pad : pad + dim] if pad != 1 else expected[::-1, pad : pad + dim]
            for i, key in enumerate(asked.tolist()):
                if key in at:
                    view[i] = rows[at[key]]
            cache.lookup(asked, out)
            np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize("pooling", ["mean", "sum"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bags_are_the_float64_sums(dtype: str, pooling: str) -> None:
    rng = np.random.default_rng(9)
    dim = 19
    cache = _kernels.RowCache(dim, 1 << 20, "lru", dtype)
    keys = np.arange(100, dtype=np.uint64)
    cache.write(keys, rng.standard_normal((100, dim)).astype(np.float32))
    kept = np.zeros((100, dim), np.float32)
    assert cache.lookup(keys, kept) == 100
    lengths = rng.integers(0, 40, 30)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    asked = rng.integers(0, 100, offsets[-1])
    whole = np.full((30, dim + 5), -7.0, np.float32)
    assert look_up_bags(cache, asked.astype(np.uint64), offsets, pooling, whole[:, 2:-3]) == len(asked)
    assert (whole[:, [0, 1, -3, -2, -1]] == -7).all()
    for bag, length in enumerate(lengths):
        total = kept[asked[offsets[bag] : offsets[bag + 1]]].astype(np.float64)
        expected = total.sum(axis=0) / (max(1, length) if pooling == "mean" else 1)
        # Adding n float32 one by one: (n-1) roundings of at most half an ulp of the sum of magnitudes.
        bound = (length + 1) * 2.0**-24 * np.abs(total).sum(axis=0) / (max(1, length) if pooling == "mean" else 1)
        assert (np.abs(whole[bag, 2:-3] - expected) <= bound + 1e-30).all()
