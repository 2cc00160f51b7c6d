"""Arrays that do not fit are refused before anything is read or written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pepnet_infer import _kernels

pytestmark = pytest.mark.hostile

DIM, N = 4, 6


def job(**other: Any) -> tuple[Any, ...]:
    fields: dict[str, Any] = {
        "cache": _kernels.RowCache(DIM, 1 << 17),
        "overlay": None,
        "default_row": np.zeros(DIM, np.float32),
        "keys": np.arange(N, dtype=np.uint64),
        "out": np.empty((N, DIM), np.float32),
        "offsets": None,
        "pooling": "sum",
        "outcomes": np.empty(N, np.uint8),
    }
    assert set(other) <= set(fields)
    return tuple((fields | other).values())


def read_only(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    array = np.empty(shape, dtype)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("other", "error"),
    [
        ({"keys": np.arange(N)}, TypeError),
        ({"keys": [1] * N}, TypeError),
        ({"keys": np.arange(2 * N, dtype=np.uint64)[::2]}, ValueError),
        ({"out": np.empty((N - 1, DIM), np.float32)}, ValueError),
        ({"out": np.empty((N, DIM + 1), np.float32)}, ValueError),
        ({"out": read_only((N, DIM), np.float32)}, ValueError),
        ({"default_row": np.zeros(DIM - 1, np.float32)}, ValueError),
        ({"default_row": None}, TypeError),
        ({"outcomes": np.empty(N - 1, np.uint8)}, ValueError),
        ({"outcomes": read_only((N,), np.uint8)}, ValueError),
        ({"outcomes": None}, TypeError),
        ({"offsets": np.array([0, N + 1])}, ValueError),
        ({"offsets": np.array([0, 4, 2]), "out": np.empty((2, DIM), np.float32)}, ValueError),
        ({"offsets": np.array([0, N]), "pooling": "max", "out": np.empty((1, DIM), np.float32)}, ValueError),
        ({"overlay": _kernels.RowOverlay(np.zeros(1, np.uint64), np.zeros((1, DIM + 1), np.float32))}, ValueError),
    ],
)
def test_a_job_that_does_not_fit_is_refused(other: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        _kernels.look_up([job(), job(**other)])  # type: ignore[list-item]


@pytest.mark.parametrize("jobs", [[()], [[1]], [job()[:-1]], [(*job(), 1)], [("cache", *job()[1:])], [None]])
def test_what_is_no_job_is_refused(jobs: list[Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        _kernels.look_up(jobs)


def test_a_value_of_a_wrong_type_in_a_list_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        _kernels.RowCache(DIM, 1 << 17, fields=[{"table": "first"}])  # type: ignore[typeddict-item]
    with pytest.raises(TypeError):
        _kernels.NumberColumns(1, [("first", 1)], [])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("other", "error"),
    [
        ({"keys": np.zeros(2, np.uint64)}, ValueError),  # one twice
        ({"keys": np.arange(2)}, TypeError),
        ({"rows": np.zeros((3, DIM), np.float32)}, ValueError),
        ({"rows": np.zeros((2, DIM), np.float16)}, ValueError),
        ({"gone": np.zeros(3, np.uint8)}, ValueError),
        ({"gone": np.zeros(2, np.int8)}, TypeError),
        ({"expires": np.zeros(2, np.float32)}, TypeError),
    ],
)
def test_an_overlay_that_does_not_fit_is_refused(other: dict[str, Any], error: type[Exception]) -> None:
    given: dict[str, Any] = {"keys": np.arange(2, dtype=np.uint64), "rows": np.zeros((2, DIM), np.float32)}
    with pytest.raises(error):
        _kernels.RowOverlay(**(given | other))


def test_what_an_overlay_reads_lives_as_long_as_it_does() -> None:
    rows = np.arange(2 * DIM, dtype=np.float32).reshape(2, DIM)
    expected = rows.copy()
    keys = np.arange(2, dtype=np.uint64)
    overlay = _kernels.RowOverlay(keys, rows, np.zeros(2, np.uint8), np.full(2, np.inf))
    del rows, keys
    filler = [np.full((2, DIM), -1, np.float32) for _ in range(100)]  # takes memory that was let go of
    out, outcomes = np.empty((2, DIM), np.float32), np.empty(2, np.uint8)
    wanted = np.arange(2, dtype=np.uint64)
    assert _kernels.look_up([job(overlay=overlay, keys=wanted, out=out, outcomes=outcomes)]) == [(0, 2, 0)]  # type: ignore[list-item]
    np.testing.assert_array_equal(out, expected)
    assert len(filler) == 100


def test_what_the_gpu_is_given_is_refused_before_it_is_copied() -> None:
    endless = np.broadcast_to(np.zeros(1, np.float32), (1 << 31, 1 << 20))
    with pytest.raises(ValueError, match=r"^values: expected one dimension"):
        _kernels.CudaFeatures([(0, None, None, endless, False)], [None], 1)
    with pytest.raises(MemoryError):
        _kernels.CudaFeatures([(0, None, None, np.broadcast_to(np.float32(0), 1 << 50), False)], [None], 1)
