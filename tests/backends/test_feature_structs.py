"""What the CUDA library is given of features: addresses of arrays, in its own structs."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from pepnet_infer import _kernels
from pepnet_infer.backends.cuda.rows import Feature


def fields_of(structs: np.ndarray) -> list[Any]:
    assert structs.nbytes % ctypes.sizeof(Feature) == 0
    return list((Feature * (structs.nbytes // ctypes.sizeof(Feature))).from_buffer(structs))


def read(address: int, count: int, dtype: type) -> list[Any]:
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer(ctypes.string_at(address, size), dtype).tolist()


def test_each_kind_of_field() -> None:
    keys, offsets = np.array([7, 2**63, 9], np.uint64), np.array([0, 1, 3], np.int64)
    values, default = np.array([0.5, 1.5], np.float32), np.array([4.0, 5.0], np.float32)
    structs, counts, held = _kernels.feature_structs(
        [(3, None, None, values, False), (0, keys[:1], None, None, True), (1, keys, offsets, None, False)],
        [default, default, None, None],
        2,
    )
    one, bag, absent, number = fields_of(structs)
    assert read(bag.keys, 3, np.uint64) == keys.tolist()
    assert read(one.keys, 1, np.uint64) == [7]
    assert (one.count, one.shared, one.offsets, one.values) == (1, 1, None, None)
    assert (bag.count, bag.shared, read(bag.offsets, 3, np.int64)) == (3, 0, [0, 1, 3])
    assert read(bag.default_row, 2, np.float32) == [4.0, 5.0]
    assert (number.count, number.keys, number.default_row, read(number.values, 2, np.float32)) == (
        2,
        None,
        None,
        [0.5, 1.5],
    )
    assert (absent.keys, absent.values, absent.count) == (None, None, 0)
    assert counts.tolist() == [1, 3, 0, 2]
    assert {id(array) for array in (keys, offsets, values, default)} <= {id(array) for array in held}


def test_what_has_gaps_or_is_not_aligned_is_copied_and_held() -> None:
    spread = np.arange(4, dtype=np.uint64)[::2]
    shifted = np.frombuffer(b"x" + np.array([3, 4], np.uint64).tobytes(), np.uint64, offset=1)
    structs, counts, held = _kernels.feature_structs(
        [(0, spread, None, None, False), (1, shifted, None, None, False)], [None, None], 2
    )
    first, second = fields_of(structs)
    assert read(first.keys, 2, np.uint64) == [0, 2]
    assert read(second.keys, 2, np.uint64) == [3, 4]
    assert second.keys % 8 == 0
    assert (counts.tolist(), len(held)) == ([2, 2], 2)


KEYS = np.zeros(2, np.uint64)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((0, np.zeros(2, np.int64), None, None, False), TypeError, "keys: expected an array of uint64"),
        ((0, [1, 2], None, None, False), TypeError, "keys: expected an array of uint64"),
        ((0, None, None, np.zeros(2), False), TypeError, "values: expected an array of float32"),
        ((0, np.zeros((2, 2), np.uint64), None, None, False), ValueError, "keys: expected one dimension"),
        ((1, None, None, None, False), ValueError, "given: expected fields below 1"),
        ((0, None), ValueError, "given: expected"),
        ((0, KEYS[:1], None, None, False), ValueError, "keys: expected 2, got 1"),
        ((0, KEYS, None, None, True), ValueError, "keys: expected 1, got 2"),
        ((0, None, None, np.zeros(3, np.float32), False), ValueError, "values: expected 2, got 3"),
        ((0, None, None, None, False), ValueError, "values: expected 2, got 0"),
        ((0, KEYS, np.array([0, 1], np.int64), None, False), ValueError, "offsets: expected 3, got 2"),
        ((0, KEYS, np.array([0, 1, 2], np.int64), None, True), ValueError, "offsets: expected 2, got 3"),
    ],
)
def test_what_is_refused(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _kernels.feature_structs([given], [None], 2)
