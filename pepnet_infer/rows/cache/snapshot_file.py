"""The file of a snapshot: a header, blocks of records, and a trailer. All integers are little-endian.

    header   magic "PEPCACHE" | format version u32 | dim u32 | dtype 8 chars | policy 8 chars | saved at f64 | crc u32
    block    "PART" | number u32 | part u32 | first u32 | total u32 | count u32 | bytes u64 | crc u32 | count records
    trailer  "LAST" | blocks u32 | entries u64 | floor u64 | crc of all bytes before it u32 | crc u32

A part is one or more blocks: records first .. first+count of its `total`, sorted so that the one that would be evicted
first stands first. Block numbers count from 0. Each CRC-32 covers what its header says before it, a block's its
records too. The trailer's sums make a file that was cut between two blocks, or put together from two, as visible as a
flipped bit. Nothing follows the trailer. The floor is the highest version that the cache had evicted.

A record is an entry of the cache. Rows keep the cache's own dtype, so that nothing is rounded twice.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.errors import StoreError
from pepnet_infer.schema.row_batch import Mask, RowBatch, Rows
from pepnet_infer.storage import atomic
from pepnet_infer.storage.local_path import check_local

Records = npt.NDArray[np.void]

#: How one number of a row lies in a record. bfloat16 is the upper half of a float32; int8 has a float32 scale a row.
_NUMBERS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int8": "<i1"}

# Bits of `flags`: what an entry is, in the lowest two, and what else is known of it.
ROW, NEGATIVE, TOMBSTONE = 1, 2, 3
_KIND = 0x03
_HIGH_PRIORITY = 0x04
_SCORED = 0x08
_KNOWN_FLAGS = _KIND | _HIGH_PRIORITY | _SCORED

_MISS, _ABSENT = 0, 2  # of Outcome

FORMAT_VERSION = 2
#: Records a block has at most: what writer and reader hold at once.
BLOCK_RECORDS = 4096

_MAGIC = b"PEPCACHE"
_HEADER = struct.Struct("<8sII8s8sd")
_BLOCK = struct.Struct("<4sIIIIIQ")
_TRAILER = struct.Struct("<4sIQQI")
_CRC = struct.Struct("<I")


class Header(NamedTuple):
    """What the cache was that a snapshot came from."""

    dim: int
    dtype: str
    policy: str
    saved_at: float  #: Unix seconds by the cache's clock


class Block(NamedTuple):
    """Where a run of a part's records lies."""

    number: int
    offset: int  #: of its first record
    first: int
    total: int
    size: int  #: in records


class Writer:
    """Writes a snapshot from front to back. Holds one block at a time."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._sum = self._blocks = self._entries = 0
        packed = _HEADER.pack(
            _MAGIC, FORMAT_VERSION, header.dim, header.dtype.encode(), header.policy.encode(), header.saved_at
        )
        self._put(packed, _CRC.pack(zlib.crc32(packed)))

    def part(self, index: int, records: Records) -> None:
        """Appends the records of a part, in order."""
        for first in range(0, len(records), BLOCK_RECORDS):
            some = records[first : first + BLOCK_RECORDS]
            payload = some.tobytes()
            head = _BLOCK.pack(b"PART", self._blocks, index, first, len(records), len(some), len(payload))
            self._put(head, _CRC.pack(zlib.crc32(payload, zlib.crc32(head))), payload)
            self._blocks += 1
        self._entries += len(records)

    def end(self, floor: int) -> None:
        """Appends the trailer. floor: of the cache, after its last part was read."""
        packed = _TRAILER.pack(b"LAST", self._blocks, self._entries, floor, self._sum)
        self._put(packed, _CRC.pack(zlib.crc32(packed)))

    def _put(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._sum = zlib.crc32(piece, self._sum)
            self._file.write(piece)


class Reader:
    """A snapshot of which every byte has been checked. Raises StoreError for anything that is not as written."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._size = os.fstat(file.fileno()).st_size
        self._at = self._sum = 0
        self.floor = 0
        self.header = self._read_header()
        try:
            self._layout = record_type(self.header.dtype, self.header.dim)
        except (KeyError, ValueError) as error:
            raise self._damaged("header", 0, "a dtype and dim of a cache", repr(self.header)) from error
        self.blocks = self._read_blocks()

    @property
    def entries(self) -> int:
        """How many records there are."""
        return sum(block.size for block in self.blocks)

    def records(self, block: Block, begin: int, end: int) -> Records:
        """Returns records begin .. end of a block's part; those that lie in the block."""
        begin, end = max(begin, block.first), min(end, block.first + block.size)
        size = self._layout.itemsize
        offset, wanted = block.offset + (begin - block.first) * size, max(end - begin, 0) * size
        data = os.pread(self._file.fileno(), wanted, offset)
        if len(data) != wanted:
            raise self._damaged(f"block {block.number}", offset, f"{wanted} bytes", f"{len(data)}: it shrank")
        return np.frombuffer(data, self._layout)

    def _read_header(self) -> Header:
        packed = self._take("header", _HEADER.size + _CRC.size)
        magic, version, dim, dtype, policy, saved_at = _HEADER.unpack_from(packed)
        if magic != _MAGIC:
            raise self._damaged("header", 0, f"a snapshot, magic {_MAGIC!r}", repr(magic))
        if version != FORMAT_VERSION:  # before the sum: another version's header may be of another length
            raise self._damaged("header", 8, f"format version {FORMAT_VERSION}", str(version))
        self._check_sum("header", 0, zlib.crc32(packed[: _HEADER.size]), packed[_HEADER.size :])
        if not math.isfinite(saved_at):
            raise self._damaged("header", _HEADER.size - 8, "a time in Unix seconds", str(saved_at))
        return Header(dim, _text(dtype), _text(policy), saved_at)

    def _read_blocks(self) -> list[Block]:
        blocks: list[Block] = []
        following = (0, 0, 0)  # part, first and total that a block which continues a part has
        entries = 0
        while True:
            start, before, where = self._at, self._sum, f"block {len(blocks)}"
            tag = self._take(where, 4)
            if tag == b"LAST":
                self._read_trailer(start, before, len(blocks), entries)
                return blocks
            head = tag + self._take(where, _BLOCK.size - 4)
            said = self._take(where, _CRC.size)
            _, number, part, first, total, count, size = _BLOCK.unpack(head)
            whole = count <= BLOCK_RECORDS and size == count * self._layout.itemsize
            if tag != b"PART" or not whole or size > self._size - self._at:
                got = f"{tag!r} of {count} records in {size} bytes, {self._size - self._at} left"
                raise self._damaged(where, start, "a block or the trailer", got)
            offset = self._at
            payload = self._take(where, size)
            self._check_sum(where, start, zlib.crc32(payload, zlib.crc32(head)), said)
            if not are_known(np.frombuffer(payload, self._layout)):
                raise self._damaged(where, start, "entries of a known kind", "another")
            if number != len(blocks) or (first and (part, first, total) != following) or first + count > total:
                got = f"number {number}, part {part}, records {first} to {first + count} of {total}"
                raise self._damaged(where, start, f"block {len(blocks)} in its order", got)
            blocks.append(Block(number, offset, first, total, count))
            following = part, first + count, total
            entries += count

    def _read_trailer(self, start: int, total: int, blocks: int, entries: int) -> None:
        packed = b"LAST" + self._take("trailer", _TRAILER.size - 4)
        self._check_sum("trailer", start, zlib.crc32(packed), self._take("trailer", _CRC.size))
        *counted, self.floor, summed = _TRAILER.unpack(packed)[1:]
        said = (*counted, summed)
        if said != (blocks, entries, total):
            raise self._damaged("trailer", start, f"blocks, entries, sum {said}", f"{(blocks, entries, total)}")
        if self._at != self._size:
            raise self._damaged("trailer", start, "the file's end after it", f"{self._size - self._at} more bytes")

    def _take(self, where: str, size: int) -> bytes:
        """Returns the next bytes, at most a block's worth, and adds them to the sum of the file."""
        data = self._file.read(size)
        if len(data) != size:
            raise self._damaged(where, self._at, f"{size} more bytes", f"{len(data)}: the file was cut")
        self._at += size
        self._sum = zlib.crc32(data, self._sum)
        return data

    def _check_sum(self, where: str, start: int, total: int, said: bytes) -> None:
        if _CRC.unpack(said)[0] != total:
            raise self._damaged(where, start, f"CRC {_CRC.unpack(said)[0]:08x}", f"{total:08x}")

    def _damaged(self, where: str, offset: int, expected: str, got: str) -> StoreError:
        return StoreError(f"{self._path}: {where} at byte {offset}: expected {expected}, got {got}")


@contextlib.contextmanager
def new_snapshot(target: Path) -> Iterator[BinaryIO]:
    """Yields a file to write, which takes the name `target` when the block ends well: see `storage.atomic.new_file`.

    Raises StoreError for what is not a snapshot at `target`, so that a wrong path costs nobody a file, and for whatever
    the file system refuses.
    """
    check_local(target, "a local file", StoreError)
    try:
        with atomic.new_file(target, _refuse_other_files) as file:
            yield file
    except OSError as error:
        raise StoreError(f"{target}: cannot write: {error}") from error


def _refuse_other_files(target: Path) -> None:
    try:
        with open(os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            magic = file.read(len(_MAGIC))
    except FileNotFoundError:
        return
    except OSError as error:  # a folder, a link, a file of somebody else's
        raise StoreError(f"{target}: expected a snapshot or nothing there, got: {error}") from error
    if magic not in (_MAGIC, b""):
        raise StoreError(f"{target}: expected a snapshot or nothing there, got another file")


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode("ascii", "replace")


def record_type(dtype: str, dim: int) -> np.dtype[np.void]:
    """Returns the layout of one entry, little-endian and without gaps. Raises KeyError for an unknown dtype."""
    known: list[Any] = [("key", "<u8"), ("version", "<u8"), ("expires", "<f8"), ("score", "<f4"), ("flags", "u1")]
    scale = [("scale", "<f4")] if dtype == "int8" else []
    return np.dtype([*known, *scale, ("row", _NUMBERS[dtype], (dim,))])


def pack(part: _kernels.CachePart, dtype: str, dim: int) -> Records:
    """Returns the entries of a part as records, the one that would be evicted first in front."""
    live = np.flatnonzero(part["outcome"] != _MISS)
    chosen = live[np.argsort(part["order"][live], kind="stable")]
    records = np.zeros(len(chosen), record_type(dtype, dim))
    absent, tombstone = part["outcome"][chosen] == _ABSENT, part["tombstone"][chosen]
    records["key"] = part["keys"][chosen]
    records["version"] = part["version"][chosen]
    records["expires"] = part["expires"][chosen]
    records["score"] = part["score"][chosen]
    records["flags"] = (
        np.where(absent, np.where(tombstone, TOMBSTONE, NEGATIVE), ROW)
        | np.where(part["high_priority"][chosen], _HIGH_PRIORITY, 0)
        | np.where(part["scored"][chosen], _SCORED, 0)
    )
    _narrow(part["rows"][chosen], records, dtype)
    return records


def kinds(records: Records) -> npt.NDArray[np.uint8]:
    """Returns ROW, NEGATIVE or TOMBSTONE for each record."""
    kind: npt.NDArray[np.uint8] = records["flags"] & np.uint8(_KIND)
    return kind


def are_known(records: Records) -> bool:
    """Returns whether every record is an entry of a kind that there is."""
    flags = records["flags"]
    return bool(np.all((flags & np.uint8(_KIND) != 0) & (flags <= np.uint8(_KNOWN_FLAGS))))


def unpack(records: Records, dtype: str) -> RowBatch:
    """Returns records of one kind as `RowCache.write` takes them; a score of NaN: the policy keeps none."""
    return RowBatch.of(
        _widen(records, dtype),
        keys=records["key"].astype(np.uint64),
        versions=records["version"].astype(np.uint64),
        scores=records["score"].astype(np.float32),
        expires=records["expires"].astype(np.float64),
    )


def earned(records: Records) -> Mask:
    """Returns whether the score of each record is of accesses, and not one that was given."""
    counted: Mask = (records["flags"] & np.uint8(_SCORED)) == 0
    return counted


def _narrow(rows: Rows, records: Records, dtype: str) -> None:
    """Undoes the widening of `RowCache.part`: every number is one that `dtype` holds."""
    if dtype == "bfloat16":
        records["row"] = np.ascontiguousarray(rows).view(np.uint32) >> np.uint32(16)
    elif dtype == "int8":  # max|row| / 127, as the cache computes it; what it serves is finite
        scales = records["scale"] = np.abs(rows).max(axis=1, initial=0.0) / np.float32(127)
        records["row"] = np.rint(rows / np.where(scales > 0, scales, np.float32(1))[:, None])
    else:
        with np.errstate(over="ignore"):
            records["row"] = rows


def _widen(records: Records, dtype: str) -> Rows:
    stored = records["row"]
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    rows: Rows = stored.astype(np.float32)
    return rows * records["scale"][:, None] if dtype == "int8" else rows
