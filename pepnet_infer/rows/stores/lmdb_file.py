"""What can be seen of an LMDB file before LMDB maps it.

LMDB trusts its file. A page number that leads behind the end of the file is read through the map, and the kernel ends
the process with SIGBUS. A file that was cut, by a copy that broke off or a disk that was full, is found here.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pepnet_infer.errors import StoreError

_MAGIC, _NO_PAGE = 0xBEEFC0DE, (1 << 64) - 1
_META_PAGE = struct.Struct("=10xH4xI20xI36xQ40xQQQ")  # flags, magic, page size, two roots, last page, transaction
_HEADER = 16  # of every page: its number u64, pad u16, flags u16, end of the pointers u16, begin of the nodes u16
_BRANCH, _LEAF, _META = 0x01, 0x02, 0x08
_BIG, _SUB = 0x01, 0x02  # flags of a node: its value is on pages of its own, it is a database
_DEEPEST = 32  # LMDB's own limit


class _Meta(NamedTuple):
    page_size: int
    roots: tuple[int, int]  # of the free list and of the main database
    last_page: int
    transaction: int


def check_file(path: Path) -> None:
    """Raises StoreError when the file `path` is shorter than its own pages say. One that LMDB refuses is left to it.

    A file that is long enough costs two reads. Else all pages are walked: the last ones may be unused, and then LMDB
    has not written them.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # nor is a pipe waited for
    except OSError:
        return
    try:
        if stat.S_ISFIFO(os.fstat(file).st_mode):  # LMDB would wait for a writer
            raise StoreError(f"{path}: expected a regular file, got a pipe")
        for last in (False, False, True):  # a writer may be at work: what was read is then of an earlier transaction
            meta = read_meta(file)
            if meta is None:
                return
            pages = os.fstat(file).st_size // meta.page_size
            beyond = None if pages > meta.last_page else _find_beyond(file, meta, pages)
            if beyond is None:
                return
            after = read_meta(file)
            if last or (after is not None and after.transaction == meta.transaction):
                raise StoreError(
                    f"{path}: expected the pages that it uses, up to number {max(beyond, meta.last_page)} of "
                    f"{meta.page_size} bytes, got a file of {os.fstat(file).st_size} bytes: it was cut, or its copy "
                    "broke off"
                )
    finally:
        os.close(file)


def read_meta(file: int) -> _Meta | None:
    """Returns the newer of the two meta pages; None where LMDB would say that this is no file of its own."""
    first = _parse_meta(os.pread(file, 160, 0))
    if first is None:
        return None
    second = _parse_meta(os.pread(file, 160, first.page_size))
    return first if second is None or second.transaction < first.transaction else second


def _parse_meta(page: bytes) -> _Meta | None:
    if len(page) < _META_PAGE.size:
        return None
    flags, magic, page_size, free_root, main_root, last_page, transaction = _META_PAGE.unpack_from(page)
    if not flags & _META or magic != _MAGIC or page_size not in (1 << n for n in range(8, 17)):
        return None
    return _Meta(page_size, (free_root, main_root), last_page, transaction)


def _find_beyond(file: int, meta: _Meta, pages: int) -> int | None:
    """Returns a page that is used and lies behind the file's `pages`, None where there is none."""
    level, seen = [root for root in meta.roots if root != _NO_PAGE], 0
    for _ in range(2 * _DEEPEST):  # a database in the main one begins where that ends
        below: list[int] = []
        for number in level:
            if number >= pages:
                return number
            seen += 1
            if seen > pages:
                return number  # pages in a ring: no walk of a sound file is longer than the file
            found, last = _followed(os.pread(file, meta.page_size, number * meta.page_size), meta.page_size)
            if last >= pages:
                return last
            below += found
        if not below:
            return None
        level = below
    return level[0]


def _followed(page: bytes, page_size: int) -> tuple[list[int], int]:
    """Returns the pages that a page leads to, and the last page of the values that it has elsewhere, -1 for none."""
    if len(page) < page_size:
        return [], _NO_PAGE
    flags, lower = struct.unpack_from("=HH", page, 10)
    count = max(0, min(lower, page_size) - _HEADER) // 2
    words = np.frombuffer(page, np.uint16)
    at = words[_HEADER // 2 : _HEADER // 2 + count].astype(np.int64)
    if not flags & (_BRANCH | _LEAF) or (count and int(at.max()) + 8 > page_size):
        return [], _NO_PAGE
    found, last = [], -1
    if not flags & _BRANCH:
        at = at[(words[at // 2 + 2] & (_BIG | _SUB)) != 0]
    for node in at.tolist():
        low, high, kind, key = struct.unpack_from("=HHHH", page, node)
        value = node + 8 + key
        if flags & _BRANCH:
            found.append(low | high << 16 | kind << 32)
        elif value + (48 if kind & _SUB else 8) > page_size:
            return [], _NO_PAGE
        elif kind & _SUB:
            (root,) = struct.unpack_from("=Q", page, value + 40)
            found += [] if root == _NO_PAGE else [root]
        else:  # the pages of the value lie together
            (first,) = struct.unpack_from("=Q", page, value)
            last = max(last, first + (_HEADER + (low | high << 16) - 1) // page_size)
    return found, last
