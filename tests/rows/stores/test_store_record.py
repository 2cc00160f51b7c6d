"""Values of the stores of bytes: the layout written down, and damage of any kind seen."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest

from pepnet_infer.errors import StoreError
from pepnet_infer.rows.stores.record import ROW_DTYPES, RowDtype, decode, encode, remembered
from pepnet_infer.schema.row_batch import RowBatch

KEYS = np.array([3, 2**63 + 9], np.uint64)
ROWS = np.array([[1.5, -2, 0.25], [3, 4, 5]], np.float32)
VERSIONS = np.array([7, 2**64 - 2], np.uint64)
SCORES, EXPIRES = np.array([0.5, np.nan], np.float32), np.array([np.inf, 2000.0])


def batch_of(keys: np.ndarray, rows: np.ndarray) -> RowBatch:
    return RowBatch.of(rows, keys=keys, versions=VERSIONS, scores=SCORES, expires=EXPIRES)


def values_of(dtype: RowDtype = "float32") -> list[bytes]:
    return encode(batch_of(KEYS, ROWS), dtype)


def deletions_of(keys: np.ndarray, versions: np.ndarray, when: float) -> list[bytes]:
    nothing = RowBatch.nothing(len(keys), 0, keys=keys)
    return encode(replace(nothing, versions=versions, expires=np.full(len(keys), when)), "float32")


@pytest.mark.parametrize(("dtype", "kind", "code"), [("float32", 1, "3f"), ("float16", 2, "3e2x"), ("bfloat16", 3, "")])
def test_the_layout_is_the_one_written_down(dtype: RowDtype, kind: int, code: str) -> None:
    value = values_of(dtype)[0]
    assert struct.unpack_from("<BBH", value) == (1, kind, 3)
    assert struct.unpack_from("<Qdf", value, 8) == (7, np.inf, 0.5)
    if code:
        assert struct.unpack("<" + code, value[28:]) == (1.5, -2, 0.25)
    else:
        assert value[28:] == np.array([0x3FC0, 0xC000, 0x3E80, 0], "<u2").tobytes()
    deletion = deletions_of(KEYS, VERSIONS, 1234.5)[1]
    assert struct.unpack_from("<BBH", deletion) == (1, 0, 0)
    assert struct.unpack_from("<Qd", deletion, 8) == (2**64 - 2, 1234.5)
    assert len(deletion) == 28


def test_values_of_several_dtypes_and_sizes_are_read_together() -> None:
    keys = np.arange(5, dtype=np.uint64)
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    versions, scores, expires = keys + np.uint64(1), np.arange(5, dtype=np.float32), np.full(5, 100.0)
    values: list[bytes | None] = [
        encode(RowBatch.of(rows, keys=keys, versions=versions, scores=scores, expires=expires), dtype)[i]
        for i, dtype in enumerate(("bfloat16", "float32", "float16"))
    ]
    values += [None, deletions_of(keys, versions, 50.0)[4]]
    got = decode(keys, values, 3, 60.0, 30.0)
    assert got.found.tolist() == [True, True, True, False, False]
    np.testing.assert_array_equal(got.rows[:3], rows[:3])
    assert got.versions.tolist() == [1, 2, 3, 0, 5]
    assert got.damaged is None
    got = decode(keys, values, 3, 81.0, 30.0)
    assert got.versions.tolist() == [1, 2, 3, 0, 0]
    assert not decode(keys, values, 3, 100.0, 30.0).found.any()


@pytest.mark.parametrize("dtype", ROW_DTYPES)
def test_every_flipped_bit_and_every_length_is_seen(dtype: RowDtype) -> None:
    good = values_of(dtype)
    flipped = [
        bytes(byte ^ (1 << bit) if at == place else byte for at, byte in enumerate(good[1]))
        for place in range(len(good[1]))
        for bit in range(8)
    ]
    cut = [(good[1] + bytes(8))[:length] for length in range(len(good[1]) + 8) if length != len(good[1])]
    for value in [*flipped, *cut, good[0], b"", b"junk" * 20]:  # good[0]: the value of another key
        got = decode(KEYS, [good[0], value], 3, 0.0, 0.0)
        assert got.damage().tolist() == [False, True]
        assert got.found.tolist() == [True, False]
        assert (got.rows[1] == 0).all()
        assert got.versions.tolist() == [7, 0]
        assert remembered(KEYS, [good[0], value], 0.0, 0.0)[0].tolist() == [True, False]


def test_what_a_dtype_cannot_hold_is_an_error() -> None:
    rows = np.array([[1, 2, 3], [4, 70000, 6]], np.float32)
    with pytest.raises(
        StoreError, match=r"rows\[1, 1\] of key 9223372036854775817: expected a number that float16 holds, got 70000"
    ):
        encode(batch_of(KEYS, rows), "float16")
    encode(batch_of(KEYS, np.array([[np.inf, np.nan]] * 2, np.float32)), "float16")
    with pytest.raises(StoreError, match="rows: expected a width of 1 to 65535, got 65536"):
        encode(batch_of(KEYS, np.zeros((2, 65536), np.float32)), "float32")
