"""Arrays of other libraries by DLPack: found where they are, or refused by name."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from pepnet_infer.backends.dlpack import CPU, CUDA, View, view
from pepnet_infer.errors import SchemaError

HOST = (CPU, 0)


def seen(found: View, columns: int) -> np.ndarray:
    import ctypes

    count = found.rows * columns
    values = (ctypes.c_float * count).from_address(found.address)
    return np.array(values, np.float32).reshape(found.rows, columns)


def test_a_matrix_is_found_where_it_is() -> None:
    whole = torch.arange(60, dtype=torch.float32).reshape(12, 5)
    found = view("general", whole, 5, HOST, 0)
    assert (found.address, found.rows) == (whole.data_ptr(), 12)
    part = view("general", whole[3:7], 5, HOST, 0)
    assert part.address == whole.data_ptr() + 3 * 5 * 4
    np.testing.assert_array_equal(seen(part, 5), whole[3:7].numpy())
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(seen(view("general", array, 3, HOST, 0), 3), array)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (1, 4), (4, 1)])
def test_strides_of_what_has_one_row_or_none_do_not_matter(shape: tuple[int, int]) -> None:
    assert view("general", torch.zeros(shape), shape[1], HOST, 0).rows == shape[0]
    assert view("general", torch.zeros(shape[::-1]).T, shape[1], HOST, 0).rows == shape[0] or min(shape) > 1


def test_the_array_stays_as_long_as_the_view() -> None:
    array = np.ones((2, 3), np.float32)
    gone = weakref.ref(array)
    found = view("general", array, 3, HOST, 0)
    del array
    gc.collect()
    np.testing.assert_array_equal(seen(found, 3), np.ones((2, 3)))
    del found
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([[1.0]], "general: expected an array that speaks DLPack, got list"),
        (torch.zeros(2, 3, dtype=torch.float64), r"general: expected float32, got DLPack type \(2, 64, 1\)"),
        (torch.zeros(2, 3, dtype=torch.bfloat16), r"general: expected float32, got DLPack type \(4, 16, 1\)"),
        (torch.zeros(2, 3, dtype=torch.int32), r"general: expected float32, got DLPack type \(0, 32, 1\)"),
        (torch.zeros(2, 4), r"general: expected shape \[rows, 3\], got \[2, 4\]"),
        (torch.zeros(3), r"general: expected shape \[rows, 3\], got \[3\]"),
        (torch.zeros(2, 2, 3), r"general: expected shape \[rows, 3\], got \[2, 2, 3\]"),
        (torch.zeros(3, 2).T, r"general: expected a C-contiguous array, got strides \[1, 2\]"),
        (torch.zeros(4, 3)[::2], r"general: expected a C-contiguous array, got strides \[6, 1\]"),
        (
            torch.zeros(2, 3).expand(2, 3)[:1].expand(2, 3),
            r"general: expected a C-contiguous array, got strides \[0, 1",
        ),
        (torch.zeros(2, 3, requires_grad=True), "general: cannot be read by DLPack: .*gradient"),
    ],
)
def test_what_is_no_such_matrix_is_refused(array: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        view("general", array, 3, HOST, 0)


class OnGpu:
    """What a tensor on a GPU is to a reader, with its memory on the host."""

    def __init__(self, number: int) -> None:
        self.tensor, self.number, self.streams = torch.ones(2, 3), number, list[object]()

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.number

    def __dlpack__(self, *, stream: int | None = None) -> object:
        self.streams.append(stream)
        return self.tensor.__dlpack__()


def test_the_array_is_told_the_stream() -> None:
    array = OnGpu(1)
    for stream in (0, 7):
        view("domain", array, 3, (CUDA, 1), stream)
    assert array.streams == [1, 7]  # 1: the default stream, by the Array API


def test_another_device_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"out: expected an array on CUDA device 0, got DLPack device \(2, 1\)"):
        view("out", OnGpu(1), 3, (CUDA, 0), 0)
    with pytest.raises(SchemaError, match=r"out: expected an array on CUDA device 0, got DLPack device \(1, 0\)"):
        view("out", torch.zeros(2, 3), 3, (CUDA, 0), 0)
    with pytest.raises(SchemaError, match=r"out: expected an array in host memory, got DLPack device \(2, 1\)"):
        view("out", OnGpu(1), 3, HOST, 0)
