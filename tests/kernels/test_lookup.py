from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pepnet_infer._kernels import Table, pool

if TYPE_CHECKING:
    from pepnet_infer._kernels import Pooling

DTYPES = ("float32", "float16", "bfloat16")
N, DIM = 37, 11


def as_float64(rows: np.ndarray) -> np.ndarray:
    if rows.dtype == np.uint16:
        return (rows.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return rows.astype(np.float64)


def make_rows(dtype: str, seed: int = 0) -> np.ndarray:
    """N rows at an odd address, as in a file whose header has any length."""
    values = np.random.default_rng(seed).normal(size=(N, DIM)).astype(np.float32)
    stored = (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else values.astype(dtype)
    rows = np.frombuffer(b"x" + stored.tobytes(), stored.dtype, offset=1).reshape(N, DIM)
    assert not rows.flags.aligned
    return rows


DEFAULT = np.linspace(-1, 1, DIM, dtype=np.float32)
KEYS = np.random.default_rng(8).permutation(N).astype(np.uint64) * np.uint64(3)


def keys_at(positions: np.ndarray) -> np.ndarray:
    """Keys of the rows at `positions`; at -1 one that has none."""
    return np.where(positions < 0, np.uint64(1), KEYS[positions])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 100])
def test_lookup_copies_rows_into_columns_of_a_wider_matrix(dtype: str, count: int) -> None:
    rows = make_rows(dtype)
    positions = np.random.default_rng(count).integers(-1, N, count)
    matrix = np.full((count, DIM + 9), 7.0, np.float32)
    found = np.empty(count, np.bool_)
    table = Table(KEYS, rows, DEFAULT)
    assert (len(table), table.dim, len(table.index)) == (N, DIM, N)
    unknown = table.lookup(keys_at(positions), matrix[:, 4 : 4 + DIM], found)
    expected = np.where((positions < 0)[:, None], DEFAULT, as_float64(rows)[positions])
    np.testing.assert_array_equal(matrix[:, 4 : 4 + DIM], expected)
    assert unknown == (positions < 0).sum()
    np.testing.assert_array_equal(found, positions >= 0)
    assert (np.delete(matrix, np.s_[4 : 4 + DIM], axis=1) == 7).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_16_bit_value_is_widened_exactly(dtype: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    rows = bits if dtype == "bfloat16" else bits.view(np.float16)
    out = np.empty((256, 256), np.float32)
    keys = np.arange(256, dtype=np.uint64)
    assert Table(keys, rows, np.zeros(256, np.float32)).lookup(keys, out) == 0
    with np.errstate(invalid="ignore"):  # signalling NaNs
        expected = as_float64(rows)
    np.testing.assert_array_equal(out, expected)  # NaN where NaN
    np.testing.assert_array_equal(np.signbit(out), np.signbit(expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_pool_agrees_with_float64(dtype: str, pooling: Pooling) -> None:
    rng = np.random.default_rng(3)
    rows = make_rows(dtype)
    offsets = np.concatenate([[2], 2 + rng.integers(0, 30, 20).cumsum()])
    offsets[6] = offsets[5]  # an empty bag
    positions = rng.integers(-1, N, offsets[-1] + 3)
    out = np.full((20, DIM + 2), 7.0, np.float32)
    unknown = Table(KEYS, rows, DEFAULT).pool(keys_at(positions), offsets, pooling, out[:, 1:-1])
    values = np.where((positions < 0)[:, None], DEFAULT.astype(np.float64), as_float64(rows)[positions])
    for bag in range(20):
        some = values[offsets[bag] : offsets[bag + 1]]
        expected = some.sum(axis=0) / (max(len(some), 1) if pooling == "mean" else 1)
        bound = 1e-6 * (np.abs(some).sum(axis=0) + 1e-30)
        assert (np.abs(out[bag, 1:-1] - expected) <= bound).all()
    assert (out[5, 1:-1] == 0).all()
    assert (out[:, [0, -1]] == 7).all()
    assert unknown == (positions[offsets[0] : offsets[-1]] < 0).sum()


def test_a_bag_of_one_is_its_row_to_the_bit() -> None:
    rows = make_rows("float32")
    out = np.empty((N, DIM), np.float32)
    pool(rows, np.arange(N + 1), "mean", out)
    np.testing.assert_array_equal(out, rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_rows_in_order_are_pooled_as_those_of_their_keys(dtype: str, pooling: Pooling) -> None:
    rows, offsets = make_rows(dtype), np.array([2, 5, 5, 30, N - 1])
    one, two = np.empty((4, DIM), np.float32), np.empty((4, DIM), np.float32)
    pool(rows, offsets, pooling, one)
    assert Table(KEYS, rows, DEFAULT).pool(KEYS, offsets, pooling, two) == 0
    np.testing.assert_array_equal(one, two)


def test_rows_may_be_written_backwards_or_into_one_column() -> None:
    rows = make_rows("float32")
    out = np.empty((N, DIM), np.float32)
    Table(KEYS, rows, DEFAULT).lookup(KEYS, out[::-1])
    np.testing.assert_array_equal(out[::-1], rows)
    column = np.empty((N, 1), np.float32)
    Table(KEYS, np.ascontiguousarray(rows[:, :1]), DEFAULT[:1]).lookup(KEYS, column)
    np.testing.assert_array_equal(column, rows[:, :1])


OUT = np.empty((2, DIM), np.float32)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 2, 1], "offsets: expected ascending values from 0 to 2, got 2 then 1 at 2"),
        ([0, 1, 3], "got 1 then 3 at 2"),
        ([-1, 1, 2], "got -1 at 0"),
        ([3, 3, 3], "got 3 at 0"),
        ([0, -(2**63), 2], "got 0 then -9223372036854775808 at 1"),
        ([0, 1], r"out: expected \[1, 11\], got float32 \[2, 11\]"),
        ([], "offsets: expected one more entry than there are bags, got none"),
    ],
)
def test_offsets_that_cut_no_bags_are_refused(offsets: list[int], message: str) -> None:
    offsets_array = np.array(offsets, dtype=np.int64)
    table = Table(KEYS, make_rows("float32"), DEFAULT)
    with pytest.raises(ValueError, match=message):
        pool(make_rows("float32")[:2], offsets_array, "sum", OUT)
    with pytest.raises(ValueError, match=message):
        table.pool(KEYS[:2], offsets_array, "sum", OUT)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"rows": np.zeros((N, DIM))},
            TypeError,
            r"rows: expected float32, float16 or uint16 .*, got float64 \[37, 11\]",
        ),
        ({"rows": np.zeros((N, DIM), ">f4")}, TypeError, r"rows: expected .*, got >f4 \[37, 11\]"),
        ({"rows": np.zeros((N, DIM), ">f2")}, TypeError, r"rows: expected .*, got >f2 \[37, 11\]"),
        ({"rows": np.zeros((N, 2 * DIM), np.float32)[:, ::2]}, ValueError, r"rows: expected \[N, dim\] without gaps"),
        ({"rows": np.zeros(N, np.float32)}, ValueError, r"rows: expected \[N, dim\] without gaps, got float32 \[37\]"),
        ({"rows": np.zeros((N, 0), np.float32)}, ValueError, r"rows: expected \[N, dim\] without gaps"),
        ({"keys": np.zeros(N, np.int64)}, TypeError, r"keys: expected uint64, got int64 \[37\]"),
        ({"keys": KEYS[1:]}, ValueError, r"keys: expected 37, one a row, got uint64 \[36\]"),
        (
            {"default_row": np.zeros(DIM - 1, np.float32)},
            ValueError,
            r"default_row: expected \[11\], got float32 \[10\]",
        ),
        ({"default_row": np.zeros(DIM)}, TypeError, r"default_row: expected float32, got float64 \[11\]"),
        ({"out": np.zeros((2, DIM))}, TypeError, r"out: expected float32, got float64 \[2, 11\]"),
        ({"out": np.zeros((3, DIM), np.float32)}, ValueError, r"out: expected \[2, 11\], got float32 \[3, 11\]"),
        ({"out": np.zeros((DIM, 2), np.float32).T}, ValueError, "out: expected writeable, aligned rows without gaps"),
        ({"out": np.broadcast_to(np.zeros(DIM, np.float32), (2, DIM))}, ValueError, "out: expected writeable"),
        (
            {"out": np.lib.stride_tricks.as_strided(np.zeros(DIM + 1, np.float32), (2, DIM), (4, 4))},
            ValueError,
            "out: expected rows that do not overlap",
        ),
        (
            {"out": np.frombuffer(bytearray(2 * DIM * 4 + 1), np.float32, offset=1).reshape(2, DIM)},
            ValueError,
            "out: expected writeable, aligned rows",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    change: dict[str, np.ndarray], error: type[Exception], message: str
) -> None:
    given = {"keys": KEYS, "rows": make_rows("float32"), "default_row": DEFAULT, "out": OUT} | change
    with pytest.raises(error, match=message):
        Table(given["keys"], given["rows"], given["default_row"]).lookup(KEYS[:2], given["out"])


def test_other_misuse_is_refused() -> None:
    rows = make_rows("float32")
    with pytest.raises(ValueError, match="pooling: expected mean or sum, got 'max'"):
        pool(rows, np.array([0, 1, 2]), "max", OUT)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"out: expected \[2, 11\], got float32 \[2, 10\]"):
        pool(rows, np.array([0, 1, 2]), "sum", OUT[:, 1:])
    table = Table(KEYS, rows, DEFAULT)
    with pytest.raises(ValueError, match=r"found: expected \[2\] without gaps, got bool \[3\]"):
        table.lookup(KEYS[:2], OUT, np.empty(3, np.bool_))
    with pytest.raises(TypeError, match=r"found: expected bool, got uint8 \[2\]"):
        table.lookup(KEYS[:2], OUT, np.empty(2, np.uint8))
