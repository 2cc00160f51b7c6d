"""Tables and headers that are not what they say. Files are built byte by byte: no writer would make them."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from row_questions import look_up

from pepnet_infer.bundle.table_file import open_table
from pepnet_infer.errors import BundleError
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.feature_schema import TableSpec

pytestmark = pytest.mark.hostile

SPEC = {"t": TableSpec("t", 2, 0)}
NAMES = {"<u8": "U64", "<f4": "F32", "<f2": "F16", "<f8": "F64", "<i8": "I64"}


def good() -> dict[str, np.ndarray]:
    return {
        "keys": np.array([1, 2, 3], "<u8"),
        "rows": np.arange(6, dtype="<f4").reshape(3, 2),
        "scores": np.zeros(3, "<f4"),
        "default": np.zeros(2, "<f4"),
    }


def build(path: Path, tensors: dict[str, np.ndarray], edit: Any = None) -> Path:
    """Writes `tensors`; `edit(header)` may change the header first, or return what stands in its place."""
    header: Any = {}
    data = b""
    for name, array in tensors.items():
        span = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": NAMES[array.dtype.str], "shape": list(array.shape), "data_offsets": span}
        data += array.tobytes()
    if edit is not None:
        changed = edit(header)
        header = header if changed is None else changed
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def opened(path: Path) -> MmapStore:
    return MmapStore({"t": path}, SPEC)


def refused(path: Path, message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        opened(path)
    assert str(path) in str(caught.value)


def test_the_good_table_is_good(tmp_path: Path) -> None:
    out = np.empty((2, 2), np.float32)
    assert look_up(opened(build(tmp_path / "t", good())), "t", np.array([3, 4], np.uint64), out) == 1
    assert out.tolist() == [[4, 5], [0, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": np.array([1, 3, 2], "<u8")}, "keys: expected ascending, distinct keys, got 2 after 3 at row 2"),
        ({"keys": np.array([1, 1, 2], "<u8")}, "keys: expected ascending, distinct keys, got 1 after 1 at row 1"),
        ({"keys": np.array([1, 2, 3], "<i8")}, r"keys: expected U64 \[3\], got I64 \[3\]"),
        ({"keys": np.array([[1], [2], [3]], "<u8")}, r"keys: expected U64 \[N\], got U64 \[3, 1\]"),
        ({"keys": np.array([1, 2], "<u8")}, r"rows: expected F32 \[2, 2\], got F32 \[3, 2\]"),
        ({"keys": np.array([1, 2, 1 << 48], "<u8")}, "expected table number 0, got 1 in key 281474976710656 at row 2"),
        (
            {"keys": np.array([1 << 48, (1 << 48) + 1, (1 << 48) + 2], "<u8")},
            "expected table number 0, got 1 in key 281474976710656 at row 0",
        ),
        ({"rows": np.zeros((3, 2), "<f8")}, r"rows: expected one of F32, F16, BF16, got F64 \[3, 2\]"),
        ({"rows": np.zeros((3, 4), "<f4")}, r"rows: expected F32 \[3, 2\], got F32 \[3, 4\]"),
        ({"rows": np.zeros(6, "<f4")}, r"rows: expected F32 \[3, 2\], got F32 \[6\]"),
        ({"scores": np.zeros(2, "<f4")}, r"scores: expected F32 \[3\], got F32 \[2\]"),
        ({"scores": np.array([0, np.inf, 0], "<f4")}, r"scores\[1\]: expected a finite number, got inf"),
        ({"default": np.zeros(3, "<f4")}, r"default: expected F32 \[2\], got F32 \[3\]"),
        ({"default": np.array([0, np.nan], "<f4")}, r"default\[1\]: expected a finite number, got nan"),
        ({"default": np.zeros(2, "<f2")}, r"default: expected F32 \[2\], got F16 \[2\]"),
        ({"extra": np.zeros(2, "<f4")}, "expected tensors keys, rows, scores, default, got .*extra"),
    ],
)
def test_a_tensor_that_is_off_is_named(change: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    refused(build(tmp_path / "t", good() | change), message)


def test_a_tensor_that_is_missing_is_noticed(tmp_path: Path) -> None:
    for name in good():
        tensors = {other: array for other, array in good().items() if other != name}
        refused(build(tmp_path / name, tensors), "expected tensors keys, rows, scores, default, got ")


def test_without_a_spec_the_file_still_agrees_with_itself(tmp_path: Path) -> None:
    path = build(tmp_path / "t", good() | {"default": np.zeros(3, "<f4")})
    with pytest.raises(BundleError, match=r"default: expected F32 \[2\], got F32 \[3\]"):
        MmapStore({"t": path})
    path = build(tmp_path / "u", good() | {"keys": np.array([1, 2, 1 << 48], "<u8")})
    with pytest.raises(BundleError, match="expected table number 0, got 1"):
        MmapStore({"t": path})
    path = build(tmp_path / "v", good() | {"rows": np.zeros((3, 0), "<f4"), "default": np.zeros(0, "<f4")})
    with pytest.raises(BundleError, match=r"rows: expected F32 \[3, dim\], got F32 \[3, 0\]"):
        MmapStore({"t": path})


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = build(tmp_path / "t", good()).read_bytes()
    for size in range(len(whole)):
        path = tmp_path / "cut"
        path.write_bytes(whole[:size])
        with pytest.raises(BundleError, match="expected"):
            opened(path)
    path.write_bytes(whole + b"\0")
    refused(path, rf"expected {len(whole)} bytes by its header, got {len(whole) + 1}")


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**32, 10_000])
def test_a_header_longer_than_the_file_is_refused(length: int, tmp_path: Path) -> None:
    whole = build(tmp_path / "t", good()).read_bytes()
    (tmp_path / "t").write_bytes(struct.pack("<Q", length) + whole[8:])
    refused(tmp_path / "t", rf"header: expected at most {len(whole) - 8} bytes, got a length of {length}")


def entry(name: str, **change: Any) -> Any:
    return lambda header: header[name].update(change)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda _: b"", "header: expected JSON"),
        (lambda _: b"\xff\xfe{}", "header: expected JSON"),
        (lambda _: b"[" * 100_000, "header: expected JSON"),
        (lambda _: b"[]", "header: expected a JSON object, got list"),
        (lambda _: b'{"a": {}, "a": {}}', "header: expected JSON, got: key 'a' comes twice"),
        (lambda h: h.update(keys=5), "tensor 'keys': expected a mapping with dtype, shape, data_offsets, got 5"),
        (
            lambda h: h["keys"].pop("shape") and None,
            "tensor 'keys': missing key 'shape'",
        ),
        (entry("keys", more=1), "tensor 'keys': unknown key 'more'; known: dtype, shape, data_offsets"),
        (entry("keys", dtype="C64"), "tensor 'keys': dtype: expected one of BF16, .*, got 'C64'"),
        (entry("keys", dtype=["U64"]), "tensor 'keys': dtype: expected one of BF16"),
        (entry("keys", shape=[-3]), r"tensor 'keys': shape\[0\]: expected an integer from 0, got -3"),
        (entry("keys", shape=[True]), r"tensor 'keys': shape\[0\]: expected an integer from 0, got True"),
        (entry("keys", shape=[3.0]), r"tensor 'keys': shape\[0\]: expected an integer from 0, got 3\.0"),
        (entry("keys", shape=[2**64]), r"header: expected JSON, got: the number 18446744073709551616 is beyond"),
        (entry("keys", shape=[2**62, 4]), "tensor 'keys': expected 147573952589676412928 bytes for U64"),
        (entry("keys", shape=[1] * 9), "tensor 'keys': shape: expected a list of at most 8, .*, got a list of 9"),
        (
            entry("keys", shape=[2**63 - 1] * 300),
            "tensor 'keys': shape: expected a list of at most 8, .*, got a list of 300",
        ),
        (
            entry("keys", shape=[0, 2**63 - 1], data_offsets=[0, 0]),
            "tensor 'keys': expected a shape that an array can have",
        ),
        (entry("keys", shape="3"), "tensor 'keys': shape: expected a list of at most 8, .*, got '3'"),
        (entry("keys", data_offsets=[0]), r"tensor 'keys': data_offsets: expected a list of 2, got a list of 1"),
        (entry("keys", data_offsets=[0, 16]), r"tensor 'keys': expected 24 bytes for U64 \[3\], got data at \[0, 16\]"),
        (entry("keys", data_offsets=[24, 0]), r"tensor 'keys': expected 24 bytes for U64 \[3\], got data at \[24, 0\]"),
        (entry("keys", data_offsets=[-24, 0]), r"tensor 'keys': data_offsets\[0\]: expected an integer from 0"),
        (entry("keys", data_offsets=[10**6, 10**6 + 24]), "tensor 'keys': expected data within .* bytes, got an end"),
        (entry("scores", data_offsets=[0, 12]), "expected data at byte .*: gap or overlap"),
        (entry("rows", data_offsets=[26, 50]), "tensor 'rows': expected data at byte 24, got 26: gap or overlap"),
    ],
)
def test_a_header_that_lies_is_refused(edit: Any, message: str, tmp_path: Path) -> None:
    refused(build(tmp_path / "t", good(), edit), message)


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, f"{tmp_path}: expected a")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "empty", tmp_path / "pipe", Path("/dev/null")):
        refused(path, "expected a safetensors file of at least 8 bytes, got 0")
    (tmp_path / "short").write_bytes(b"1234567")
    refused(tmp_path / "short", "expected a safetensors file of at least 8 bytes, got 7")


@pytest.mark.parametrize("row", [1 << 18, (1 << 18) + 1, (1 << 21) + 9])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("keys", 0, "keys: expected ascending, distinct keys, got 0 after {before} at row {row}"),
        ("scores", np.nan, r"scores\[{row}\]: expected a finite number, got nan"),
    ],
)
def test_a_large_table_is_checked_in_steps(name: str, value: float, message: str, row: int, tmp_path: Path) -> None:
    count = (1 << 21) + 10
    tensors = good() | {
        "keys": np.arange(count, dtype="<u8"),
        "rows": np.zeros((count, 1), "<f2"),
        "scores": np.zeros(count, "<f4"),
        "default": np.zeros(1, "<f4"),
    }
    tensors[name][row] = value
    path = build(tmp_path / "t", tensors)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=message.format(row=row, before=row - 1)):
            open_table(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
