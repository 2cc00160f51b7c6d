"""Damaged snapshots: a StoreError that says where, and a cache that is as it was. Never rows that nobody wrote."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pepnet_infer import _kernels
from pepnet_infer.errors import StoreError
from pepnet_infer.rows.cache import snapshot, snapshot_file

pytestmark = pytest.mark.hostile

DIM = 2
HEADER_BYTES = 8 + 4 + 4 + 8 + 8 + 8 + 4
BLOCK_BYTES = 4 + 5 * 4 + 8 + 4
TRAILER_BYTES = 4 + 4 + 8 + 8 + 4 + 4


def make() -> Any:
    """A cache of one part."""
    return _kernels.RowCache(DIM, 1 << 18, "lru", "float32", max_rows=4088)


def tiny(folder: Path) -> bytes:
    """A snapshot of a few entries of every kind, in more than one block."""
    cache = make()
    keys = np.arange(5, dtype=np.uint64)
    cache.write(keys, np.arange(10, dtype=np.float32).reshape(5, 2), versions=keys + 1)
    cache.erase(np.array([9], np.uint64), np.array([4], np.uint64))
    cache.mark_absent(np.array([8], np.uint64))
    snapshot.save(cache, folder / "tiny")
    return (folder / "tiny").read_bytes()


def large(folder: Path) -> bytes:
    """A snapshot of several full blocks."""
    cache = make()
    keys = np.arange(2 * snapshot_file.BLOCK_RECORDS // 3, dtype=np.uint64)
    cache.write(keys, np.repeat(keys[:, None], DIM, 1).astype(np.float32))
    blocks = [cache.part(0)] * 3  # the same part three times is a file as good as any
    with snapshot_file.new_snapshot(folder / "large") as file:
        writer = snapshot_file.Writer(file, snapshot_file.Header(DIM, "float32", "lru", 0.0))
        for index, part in enumerate(blocks):
            writer.part(index, snapshot_file.pack(part, "float32", DIM))
        writer.end(0)
    return (folder / "large").read_bytes()


def starts(data: bytes) -> list[int]:
    """Where the header, each block, the trailer, and the end are."""
    at, found = HEADER_BYTES, [0]
    while data[at : at + 4] == b"PART":
        found.append(at)
        at += BLOCK_BYTES + int(struct.unpack_from("<Q", data, at + 24)[0])
    assert data[at : at + 4] == b"LAST"
    assert at + TRAILER_BYTES == len(data)
    return [*found, at, len(data)]


def refused(path: Path, data: bytes, match: str = "expected") -> str:
    """Loads `data` into a cache with an entry of its own; returns what was said."""
    path.write_bytes(data)
    cache = make()
    cache.write(np.array([77], np.uint64), np.array([[7, 7]], np.float32))
    with pytest.raises(StoreError, match=match) as caught:
        snapshot.load(cache, path)
    stats = cache.stats()
    assert (stats["rows"], stats["negatives"], stats["tombstones"], stats["inserted"]) == (1, 0, 0, 1)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_cut_after_every_byte(tmp_path: Path) -> None:
    data = tiny(tmp_path)
    for length in range(len(data)):
        refused(tmp_path / "cut", data[:length], r"(header|block \d+|trailer) at byte \d+: expected .*, got ")


def test_bits_flipped_in_every_byte(tmp_path: Path) -> None:
    data = tiny(tmp_path)
    for bit in range(8 * len(data)):
        if bit % 8 not in (bit // 8 % 8, 7):  # two bits of each byte; every one of any eight
            continue
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        refused(tmp_path / "flipped", bytes(bad), r"(header|block \d+|trailer) at byte \d+: expected .*, got ")


def test_cut_at_every_block(tmp_path: Path) -> None:
    data = large(tmp_path)
    borders = starts(data)
    assert len(borders) >= 5
    for number, border in enumerate(borders[:-1]):
        for length in {max(border - 1, 0), border, min(border + 1, len(data) - 1)}:
            refused(tmp_path / "cut", data[:length], "the file was cut|expected a block or the trailer")
        if number:
            said = refused(tmp_path / "cut", data[:border])
            assert f"block {number - 1} at byte {border}" in said


def test_a_bit_flipped_in_every_block(tmp_path: Path) -> None:
    data = large(tmp_path)
    rng = np.random.default_rng(11)
    borders = starts(data)
    for number, (begin, end) in enumerate(itertools.pairwise(borders[1:-1])):
        for offset in rng.integers(begin + BLOCK_BYTES, end, 5):
            bad = bytearray(data)
            bad[offset] ^= 1 << int(rng.integers(8))
            said = refused(tmp_path / "flipped", bytes(bad), "expected CRC [0-9a-f]{8}, got [0-9a-f]{8}")
            assert f"block {number} at byte {begin}" in said


def test_blocks_left_out_repeated_or_exchanged(tmp_path: Path) -> None:
    data = large(tmp_path)
    head, a, b, c, last, _ = starts(data)
    pieces = {"h": data[head:a], "a": data[a:b], "b": data[b:c], "c": data[c:last], "t": data[last:]}
    for order in ("hact", "habbct", "hacbt", "hbct", "haat", "ht"):
        refused(tmp_path / "mixed", b"".join(pieces[name] for name in order), r"in its order|trailer at byte \d+")
    refused(tmp_path / "mixed", data[:last], "the file was cut")
    refused(tmp_path / "mixed", data + b"\0", "the file's end after it, got 1 more bytes")
    refused(tmp_path / "mixed", data + data, "the file's end after it")


def test_blocks_of_another_snapshot(tmp_path: Path) -> None:
    data = large(tmp_path)
    other = bytearray(data)
    _, a, b, *_ = starts(data)
    other[b - 3] ^= 1  # another row, with a sum of its own: a block as whole as the one it replaces
    other[a + 32 : a + 36] = struct.pack("<I", zlib.crc32(other[a + 36 : b], zlib.crc32(other[a : a + 32])))
    refused(tmp_path / "mixed", bytes(other), r"trailer at byte \d+: expected blocks, entries, sum ")


def with_header(data: bytes, change: Callable[[bytearray], None]) -> bytes:
    """`data` with a changed header whose own sum is right."""
    head = bytearray(data[: HEADER_BYTES - 4])
    change(head)
    return bytes(head) + struct.pack("<I", zlib.crc32(head)) + data[HEADER_BYTES:]


def test_headers_of_something_else(tmp_path: Path) -> None:
    data, path = tiny(tmp_path), tmp_path / "other"
    refused(path, b"", "header at byte 0: expected 44 more bytes, got 0")
    refused(path, b"PK\x03\x04" * 30, "header at byte 0: expected a snapshot, magic b'PEPCACHE', got b'PK")

    def version(head: bytearray) -> None:
        head[8:12] = struct.pack("<I", 3)

    def dtype(head: bytearray) -> None:
        head[16:24] = b"float64\0"

    refused(path, with_header(data, version), "header at byte 8: expected format version 2, got 3")
    refused(path, with_header(data, dtype), "header at byte 0: expected a dtype and dim of a cache, got Header")
    for dim in (0, 2**32 - 1):

        def width(head: bytearray, dim: int = dim) -> None:
            head[12:16] = struct.pack("<I", dim)

        refused(path, with_header(data, width), "expected")


@pytest.mark.parametrize(("dim", "dtype"), [(3, "float32"), (2, "float16"), (2, "int8")])
def test_a_cache_of_another_shape(dim: int, dtype: str, tmp_path: Path) -> None:
    tiny(tmp_path)
    cache = _kernels.RowCache(dim, 1 << 18, "lru", dtype)
    said = rf"tiny: header: expected rows of {dim} {dtype} as in the cache, got rows of 2 float32"
    with pytest.raises(StoreError, match=said):
        snapshot.load(cache, tmp_path / "tiny")
    assert cache.stats()["rows"] == 0


def test_lengths_that_lie(tmp_path: Path) -> None:
    """Sums can be forged; what they cover must still not lead anywhere."""
    data = tiny(tmp_path)
    at = starts(data)[1]
    record = snapshot_file.record_type("float32", DIM).itemsize
    for count, size in ((2**32 - 1, (2**32 - 1) * record), (0, 0), (3, 2**63), (10**6, 10**6 * record)):
        head = bytearray(data[at : at + 32])
        head[20:32] = struct.pack("<IQ", count, size)
        forged = data[:at] + bytes(head) + struct.pack("<I", zlib.crc32(head)) + data[at + 36 :]
        refused(tmp_path / "forged", forged, r"block [01] at byte \d+: expected")


def test_kinds_that_do_not_exist(tmp_path: Path) -> None:
    cache = make()
    cache.write(np.array([1], np.uint64), np.zeros((1, DIM), np.float32))
    records = snapshot_file.pack(cache.part(0), "float32", DIM)
    for flags in (0, 0x10, 0xFF):
        records["flags"] = flags
        with open(tmp_path / "odd", "wb") as file:
            writer = snapshot_file.Writer(file, snapshot_file.Header(DIM, "float32", "lru", 0.0))
            writer.part(0, records)
            writer.end(0)
        data = (tmp_path / "odd").read_bytes()
        refused(tmp_path / "odd", data, r"block 0 at byte \d+: expected entries of a known kind")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"gone: cannot read: .*No such file"):
        snapshot.load(make(), tmp_path / "gone")
    with pytest.raises(StoreError, match=r"cannot read: .*directory"):
        snapshot.load(make(), tmp_path)


@pytest.mark.parametrize("saved_at", [np.nan, np.inf, -np.inf])
def test_times_that_are_none(saved_at: float, tmp_path: Path) -> None:
    """Scores decay by the time since: NaN would make them all NaN."""
    data = with_header(tiny(tmp_path), lambda head: head.__setitem__(slice(-8, None), struct.pack("<d", saved_at)))
    refused(tmp_path / "when", data, "header at byte 32: expected a time in Unix seconds, got ")


def test_what_no_check_thought_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise IndexError("of nobody's making")

    monkeypatch.setattr(snapshot_file, "are_known", fails)
    refused(tmp_path / "odd", tiny(tmp_path), "content that leads to IndexError: of nobody's making")
