"""What a batch has of each field, as it is given to a GPU; that it is read right: kernels/cpp/test_cuda_rows.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pepnet_infer._kernels import CudaFeatures


def test_each_kind_of_field() -> None:
    keys, offsets = np.array([7, 2**63, 9], np.uint64), np.array([0, 1, 3], np.int64)
    values, default = np.array([0.5, 1.5], np.float32), np.array([4.0, 5.0], np.float32)
    features = CudaFeatures(
        [(3, None, None, values, False), (0, keys[:1], None, None, True), (1, keys, offsets, None, False)],
        [default, default, None, None],
        2,
    )
    assert features.counts.tolist() == [1, 3, 0, 2]


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
        CudaFeatures([given], [None], 2)
