"""Tensor files in the safetensors format, bfloat16 included: written as a stream. `mapped_file` reads them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

Dtype = Literal["F64", "F32", "F16", "BF16", "U64", "I64", "I32", "U32", "U16", "U8"]
#: safetensors dtype → how NumPy holds its bytes. BF16 is the upper half of a float32, held as uint16.
DTYPES: dict[Dtype, str] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "U64": "<u8",
    "I64": "<i8",
    "I32": "<i4",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
}
_NAMES = {np.dtype(held): name for name, held in DTYPES.items() if name != "BF16"}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: its dtype, shape, and where its bytes begin, counted from the start of the file."""

    dtype: Dtype
    shape: tuple[int, ...]
    begin: int


def write_tensors(path: Path, tensors: Mapping[str, Array], bfloat16: frozenset[str] = frozenset()) -> None:
    """Writes a new file of a directory that is being made, see `storage.atomic`.

    Tensors are sorted by item size, then name, so that equal tensors give equal bytes.
    `bfloat16` names the tensors whose uint16 values are bfloat16 bits. Raises OSError as the file system does.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header, at = {}, 0
    for name in order:
        array = tensors[name]
        dtype = "BF16" if name in bfloat16 else _NAMES[array.dtype.newbyteorder("<")]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # rows start at a multiple of 8 bytes
    with open(path, "xb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            array = np.ascontiguousarray(tensors[name], dtype=tensors[name].dtype.newbyteorder("<"))
            file.write(array.reshape(-1).view(np.uint8).data)


def to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Returns finite float32 `values` as bfloat16 bits, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1)))) >> 16).astype(np.uint16)


def from_bfloat16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Returns bfloat16 `bits` as float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
