"""Tensor files in the safetensors format, bfloat16 included: written as a stream, read over a map."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from pepnet_infer._kernels import FileMap
from pepnet_infer.errors import BundleError, PepnetError, StoreError, readable
from pepnet_infer.quoting import quote
from pepnet_infer.storage.document import MAX_BYTES, parse_document
from pepnet_infer.validation import Count, convert

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
    """One tensor of a file: its dtype, shape, and where its bytes are, counted from the start of the file."""

    dtype: Dtype
    shape: tuple[int, ...]
    begin: int
    end: int


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


class MappedFile:
    """The tensors of a file as read-only arrays over one map: header and data are of one file, whatever has its name.

    The file may be renamed, replaced or deleted while the arrays are in use: they keep the old content, and the map
    goes away with the last of them. One that is cut or written in place shows zeros or other content: whoever reads the
    arrays calls `check` afterwards, and throws away what was read when it raises.
    """

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        """data: what was read from `path` before, such as the bytes that were hashed; None: the file is mapped.

        Raises BundleError unless header, dtypes, shapes and the file's size agree byte for byte.
        """
        self.path = path
        source = _mapped(path) if data is None else data
        self.map = source if isinstance(source, FileMap) else None
        self._data = memoryview(source)
        self.bytes = len(self._data)
        self.tensors = self._read_header()

    def array(self, name: str) -> Array:
        """Returns a tensor without copying it. Its address may be odd: the format promises no alignment."""
        info = self.tensors[name]
        flat = np.frombuffer(self._data, DTYPES[info.dtype], count=math.prod(info.shape), offset=info.begin)
        return flat.reshape(info.shape)

    def check(self, sha256: str | None = None, error: type[PepnetError] = StoreError) -> None:
        """Raises `error` unless all that was read so far is the file's content as it was opened.

        sha256: of that content. It tells a file that only got another name or other rights from one whose times were
        set back after it was changed; without, that is not looked for.
        """
        if self.map is None or not (problem := self.map.problem()):
            return
        if problem == "touched":
            now = self.map.changed_ns
            same = sha256 is None or hashlib.sha256(self._data).hexdigest() == sha256
            if same and self.map.problem() == "touched":
                self.map.accept(now)
                return
            problem = "its content is another"
        raise error(
            f"expected a file that stays as it was opened, got one that was changed in place: {problem}. "
            "Replace a bundle by rename, never by writing into it, and load it again",
            file=self.path,
        )

    def _read_header(self) -> dict[str, TensorInfo]:
        path = str(self.path)
        if self.bytes < 8:
            raise BundleError(f"expected a safetensors file of at least 8 bytes, got {self.bytes}", file=path)
        (length,) = struct.unpack("<Q", self._data[:8])
        most = min(MAX_BYTES, self.bytes - 8)
        if length > most:
            raise BundleError(f"header: expected at most {most} bytes, got a length of {length}", file=path)
        data = 8 + length
        header = parse_document(f"{path}: header", bytes(self._data[8:data]))
        header.pop("__metadata__", None)
        tensors = {
            name: _read_entry(f"{path}: tensor {quote(name)}", entry, data, self.bytes)
            for name, entry in header.items()
        }
        at = data
        for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
            if info.begin != at:
                got = f"{info.begin - data}: gap or overlap"
                raise BundleError(f"tensor {quote(name)}: expected data at byte {at - data}, got {got}", file=path)
            at = info.end
        if at != self.bytes:
            raise BundleError(f"expected {at} bytes by its header, got {self.bytes}", file=path)
        return tensors


def _mapped(path: Path) -> FileMap | bytes:
    with readable(path, error=BundleError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return FileMap(descriptor) if os.fstat(descriptor).st_size else b""  # nothing, as in a pipe, cannot be mapped
    except (OSError, ValueError) as error:  # a ValueError: it was emptied just now
        raise BundleError(f"expected a file that can be mapped, got: {error}", file=path) from error
    finally:
        os.close(descriptor)


class _Entry(Struct, forbid_unknown_fields=True):
    """A tensor in a header."""

    dtype: Dtype
    shape: Annotated[tuple[Count, ...], Meta(max_length=8)]
    data_offsets: tuple[Count, Count]


def _read_entry(where: str, given: object, data: int, size: int) -> TensorInfo:
    entry: _Entry = convert(where, given, _Entry, BundleError)
    dtype, shape, (begin, end) = entry.dtype, entry.shape, entry.data_offsets
    bytes_ = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if bytes_ == 0 and math.prod(max(size, 1) for size in shape) >= 2**48:
        raise BundleError(within=where, expected="a shape that an array can have", got=quote(list(shape)))
    if end - begin != bytes_:
        expected = f"{bytes_} bytes for {dtype} {quote(list(shape))}"
        raise BundleError(within=where, expected=expected, got=f"data at {quote([begin, end])}")
    if data + end > size:
        raise BundleError(within=where, expected=f"data within {size} bytes", got=f"an end at {data + end}")
    return TensorInfo(dtype, shape, data + begin, data + end)


def to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Returns finite float32 `values` as bfloat16 bits, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1)))) >> 16).astype(np.uint16)


def from_bfloat16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Returns bfloat16 `bits` as float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
