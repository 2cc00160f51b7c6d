"""A memory-mapped safetensors file: header and data are read from one file, even if its name is given to another."""

from __future__ import annotations

import hashlib
import math
import os
import struct
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from pepnet_infer._kernels import FileMap
from pepnet_infer.errors import BundleError, PepnetError, StoreError
from pepnet_infer.quoting import quote
from pepnet_infer.storage.document import MAX_BYTES, parse_document
from pepnet_infer.storage.tensorfile import DTYPES, Dtype, TensorInfo
from pepnet_infer.validation import Count, convert

Array = npt.NDArray[Any]


class MappedFile:
    """The tensors of a file as read-only arrays over one map.

    The file may be renamed, replaced or deleted while the arrays are in use: they keep the old content, and the map
    goes away with the last of them. One that is cut or written in place shows zeros or other content: whoever reads the
    arrays calls `check` afterwards, and throws away what was read when it raises.
    """

    def __init__(self, path: Path) -> None:
        """Raises BundleError unless header, dtypes, shapes and the file's size agree byte for byte."""
        self.path = path
        self.map: FileMap | None = None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise BundleError(f"expected a readable file, got: {error.strerror}", file=path) from error
        try:
            if (size := os.fstat(descriptor).st_size) < 8:
                raise BundleError(f"expected a safetensors file of at least 8 bytes, got {size}", file=path)
            self.map = FileMap(descriptor)
        except (OSError, ValueError) as error:  # a ValueError: it was emptied just now
            raise BundleError(f"expected a file that can be mapped, got: {error}", file=path) from error
        finally:
            os.close(descriptor)
        self._data = memoryview(self.map)
        self.bytes = len(self._data)
        self.tensors = self._read_header()

    @classmethod
    def over(cls, path: Path, data: bytes) -> MappedFile:
        """Returns the same over bytes that were read from `path` before: they are what was hashed, say."""
        file = cls.__new__(cls)
        file.path, file.bytes, file.map, file._data = path, len(data), None, memoryview(data)
        if file.bytes < 8:
            raise BundleError(f"expected a safetensors file of at least 8 bytes, got {file.bytes}", file=path)
        file.tensors = file._read_header()
        return file

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
        (length,) = struct.unpack("<Q", self._data[:8])
        most = min(MAX_BYTES, self.bytes - 8)
        if length > most:
            raise BundleError(f"header: expected at most {most} bytes, got a length of {length}", file=path)
        data = 8 + length
        header = parse_document(f"{path}: header", bytes(self._data[8:data]))
        header.pop("__metadata__", None)
        tensors, spans = {}, []
        for name, entry in header.items():
            tensors[name], span = _read_entry(f"{path}: tensor {quote(name)}", entry, data, self.bytes)
            spans.append((*span, name))
        at = 0
        for begin, end, name in sorted(spans):
            if begin != at:
                raise BundleError(
                    f"tensor {quote(name)}: expected data at byte {at}, got {begin}: gap or overlap", file=path
                )
            at = end
        if data + at != self.bytes:
            raise BundleError(f"expected {data + at} bytes by its header, got {self.bytes}", file=path)
        return tensors


class _Entry(Struct, forbid_unknown_fields=True):
    """A tensor in a header."""

    dtype: Dtype
    shape: Annotated[tuple[Count, ...], Meta(max_length=8)]
    data_offsets: tuple[Count, Count]


def _read_entry(where: str, given: object, data: int, size: int) -> tuple[TensorInfo, tuple[int, int]]:
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
    return TensorInfo(dtype, shape, data + begin), (begin, end)
