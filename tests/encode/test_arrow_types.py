"""Types that other programs give to Arrow and pyarrow has no arrays of."""

from __future__ import annotations

import ctypes

import pyarrow as pa
import pytest

from pepnet_infer.encode.arrays import check_type
from pepnet_infer.encode.columns import read_columns
from pepnet_infer.errors import SchemaError

pytestmark = pytest.mark.hostile


class _ArrowSchema(ctypes.Structure):
    """Of Arrow's C data interface."""

    _fields_ = [
        ("format", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("metadata", ctypes.c_char_p),
        ("flags", ctypes.c_int64),
        ("n_children", ctypes.c_int64),
        ("children", ctypes.c_void_p),
        ("dictionary", ctypes.c_void_p),
        ("release", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
        ("private_data", ctypes.c_void_p),
    ]


@pytest.mark.parametrize("spelled", [b"tiM", b"tiD"])
def test_types_that_pyarrow_has_no_arrays_of(spelled: bytes) -> None:
    def release(address: int) -> None:
        _ArrowSchema.from_address(address).release = type(schema.release)()

    schema = _ArrowSchema(format=spelled, name=b"x", release=_ArrowSchema._fields_[7][1](release))
    kind = pa.DataType._import_from_c(ctypes.addressof(schema))
    for outer in (kind, pa.list_(kind), pa.struct([("y", pa.large_list(kind))])):
        with pytest.raises(SchemaError, match=r"^column 'x': expected a type that pyarrow has arrays of, got "):
            check_type("x", outer)


def test_a_map_is_no_list() -> None:
    pairs = pa.array([[("a", 1)], None, [("b", 2), ("c", 3)]], pa.map_(pa.string(), pa.int64()))
    assert read_columns({"x": pairs}, ["x"])["x"].equals(pairs)
