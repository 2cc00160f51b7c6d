"""Matrices of other libraries, by DLPack: where they are, without a copy.

The layout of the struct is that of dlpack.h 0.x (`DLTensor`), which every library exports to who does not ask for more.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pepnet_infer.errors import SchemaError

#: kDLCPU and kDLCUDA of `DLDeviceType`.
CPU, CUDA = 1, 2
_FLOAT = 2  # kDLFloat
_NAME = b"dltensor"


@runtime_checkable
class DeviceArray(Protocol):
    """An array that speaks DLPack: a torch tensor, a cupy array."""

    def __dlpack__(self, *, stream: int | None = None) -> object:
        """Returns a capsule of a `DLManagedTensor`, ready to be read in `stream`."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """Returns the kind of device and its number."""


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class View:
    """A C-contiguous float32 matrix [rows, ·] of somebody else's, which stays for as long as this object."""

    address: int
    rows: int
    capsule: object


_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = ctypes.c_void_p
_pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]


def view(name: str, array: object, width: int, device: tuple[int, int], stream: int) -> View:
    """Returns where `array` is: a C-contiguous float32 matrix of `width` columns on `device`.

    stream: a CUDA stream's handle, 0 for the default one, in which it will be read or written; its own library makes
    that wait for what it still has to do. Raises SchemaError naming `name` for anything else.
    """
    if not isinstance(array, DeviceArray):
        raise SchemaError(f"{name}: expected an array that speaks DLPack, got {type(array).__name__}")
    kind, number = array.__dlpack_device__()
    if (int(kind), int(number)) != device:
        expected = "in host memory" if device[0] == CPU else f"on CUDA device {device[1]}"
        raise SchemaError(f"{name}: expected an array {expected}, got DLPack device ({int(kind)}, {number})")
    try:
        # 1 is the default stream here: 0 is left out, for other libraries mean other things by it.
        capsule = array.__dlpack__(stream=None if device[0] == CPU else stream or 1)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise SchemaError(f"{name}: cannot be read by DLPack: {error}") from error
    # Borrowed, not consumed: the capsule keeps its name, and lets go of the array when it goes itself.
    tensor = _Tensor.from_address(_pointer_of(capsule, _NAME))
    if (tensor.code, tensor.bits, tensor.lanes) != (_FLOAT, 32, 1):
        raise SchemaError(f"{name}: expected float32, got DLPack type ({tensor.code}, {tensor.bits}, {tensor.lanes})")
    shape = [tensor.shape[i] for i in range(tensor.ndim)]
    if len(shape) != 2 or shape[1] != width:
        raise SchemaError(f"{name}: expected shape [rows, {width}], got {shape}")
    if tensor.strides and shape[0] > 0 and width > 0:
        strides = [tensor.strides[i] for i in range(2)]
        if (shape[1] > 1 and strides[1] != 1) or (shape[0] > 1 and strides[0] != width):
            raise SchemaError(f"{name}: expected a C-contiguous array, got strides {strides} for shape {shape}")
    return View((tensor.data or 0) + tensor.byte_offset, shape[0], capsule)
