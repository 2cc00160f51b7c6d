"""How a row is kept in a store of bytes: one value a key, all numbers little-endian, bound to its key by a checksum.

    byte  0  u8   format, 1
          1  u8   0 deletion, 1 float32, 2 float16, 3 bfloat16
          2  u16  dim; 0 for a deletion
          4  u32  checksum of all the rest and of the key
          8  u64  version
         16  f64  expiry in Unix seconds, inf for never; of a deletion when it was made
         24  f32  score, NaN for none
         28       the row, padded with zeros to a multiple of 4 bytes

What expired, or was deleted, is remembered by its version for a while, so that older updates that come late are still
told from newer ones. After that it is as if it had never been there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from pepnet_infer.errors import StoreError
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import Mask, Positions, RowBatch, Rows
from pepnet_infer.storage.tensorfile import from_bfloat16, to_bfloat16

RowDtype = Literal["float32", "float16", "bfloat16"]
ROW_DTYPES: tuple[RowDtype, ...] = ("float32", "float16", "bfloat16")

#: Seconds for which a deletion or an expired row is remembered, unless a store is told otherwise.
REMEMBER = 7 * 86400.0
#: Seconds, any number of them.
Remember = Annotated[float, Meta(ge=0)]

FORMAT = 1
HEADER = np.dtype(
    [
        ("format", "u1"),
        ("kind", "u1"),
        ("dim", "<u2"),
        ("check", "<u4"),
        ("version", "<u8"),
        ("expires", "<f8"),
        ("score", "<f4"),
    ]
)
MAX_DIM = 0xFFFF
_DELETION = 0
_ITEM_BYTES = np.array([0, 4, 2, 2])
_CHECK_WORD = 1


def encode(batch: RowBatch, dtype: RowDtype) -> list[bytes]:
    """Returns one value a key: its row or, for a batch of width 0, that it was deleted at `expires`.

    Raises StoreError for a width above MAX_DIM and what float16 cannot hold.
    """
    dim = batch.rows.shape[1]
    if dim > MAX_DIM:
        raise StoreError(f"rows: expected a width of 1 to {MAX_DIM}, got {dim}")
    body = _narrowed(batch, dtype).view(np.uint8)
    values = np.zeros((batch.keys.size, HEADER.itemsize + body.shape[1] + -body.shape[1] % 4), np.uint8)
    values[:, HEADER.itemsize : HEADER.itemsize + body.shape[1]] = body
    head = values[:, : HEADER.itemsize].view(HEADER)[:, 0]
    head["format"], head["kind"], head["dim"] = FORMAT, ROW_DTYPES.index(dtype) + 1 if dim else _DELETION, dim
    head["version"], head["expires"], head["score"] = batch.versions, batch.expires, batch.scores
    head["check"] = checksum(batch.keys, values.view("<u4"))
    whole: list[bytes] = values.view(f"V{values.shape[1]}")[:, 0].tolist()
    return whole


def decode(keys: Keys, values: Sequence[bytes | None], dim: int, now: float, remember: float) -> RowBatch:
    """Returns what `values` (None: not there) say of N keys; one of a width other than `dim` counts as damaged."""
    got, damaged = RowBatch.nothing(keys.size, dim), np.zeros(keys.size, np.bool_)
    for at, words in _by_size(values, damaged):
        head, good = _headers(keys[at], words)
        kind = head["kind"]
        good &= (kind == _DELETION) | (head["dim"] == dim)
        damaged[at] = ~good
        got.versions[at] = np.where(good & (head["expires"] + remember > now), head["version"], 0)
        live = good & (kind != _DELETION) & (head["expires"] > now)
        if not live.all():
            at, words, head, kind = at[live], words[live], head[live], kind[live]
        got.found[at], got.scores[at], got.expires[at] = True, head["score"], head["expires"]
        for number in set(kind.tolist()):
            part = slice(None) if (kind == number).all() else kind == number
            got.rows[at[part]] = _widened(words[part], number, dim)
    return replace(got, damaged=damaged) if damaged.any() else got


def where_newer(batch: RowBatch, values: Sequence[bytes | None], now: float, remember: float) -> Positions:
    """Returns where a batch is newer than `values`, what is there of its keys (None: nothing).

    Raises StoreError where a row of another width is there.
    """
    (known, head), dim = remembered(batch.keys, values, now, remember), batch.rows.shape[1]
    wrong = known & (head["dim"] != 0) & (head["dim"] != dim)
    if dim and wrong.any():
        at = int(np.argmax(wrong))
        raise StoreError(f"key {batch.keys[at]}: expected a row of width {head['dim'][at]} as it has, got {dim}")
    return np.flatnonzero(~known | (batch.versions > head["version"]))


def remembered(
    keys: Keys, values: Sequence[bytes | None], now: float, remember: float
) -> tuple[Mask, npt.NDArray[np.void]]:
    """Returns of which of N keys a store knows more than nothing, undamaged, and the headers of their values."""
    known, heads = np.zeros(keys.size, np.bool_), np.zeros(keys.size, HEADER)
    for at, words in _by_size(values, np.zeros(keys.size, np.bool_)):
        heads[at], good = _headers(keys[at], words)
        known[at] = good & (heads["expires"][at] + remember > now)
    return known, heads


def _by_size(
    values: Sequence[bytes | None], damaged: npt.NDArray[np.bool_]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]]:
    """Yields (positions [n], words [n, size / 4]) of values of one size; sets `damaged` for sizes that cannot be."""
    there = [value for value in values if value is not None]
    at = np.arange(len(values))
    if len(there) < len(values):
        at = np.flatnonzero([value is not None for value in values])
    sizes = sorted(set(map(len, there)))
    for size in sizes:
        some, some_at = there, at
        if len(sizes) > 1:
            of_size = [i for i, value in enumerate(there) if len(value) == size]
            some, some_at = [there[i] for i in of_size], at[of_size]
        if size < HEADER.itemsize or size % 4:
            damaged[some_at] = True
        else:
            yield some_at, np.frombuffer(b"".join(some), "<u4").reshape(-1, size // 4)


def _headers(keys: Keys, words: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.void], npt.NDArray[np.bool_]]:
    """Returns the headers [n] of values `words` [n, size / 4], and which of them are undamaged."""
    head = np.ascontiguousarray(words[:, : HEADER.itemsize // 4]).view(HEADER)[:, 0]
    kind, width = head["kind"], head["dim"].astype(np.int64)
    good = (head["format"] == FORMAT) & (kind < _ITEM_BYTES.size) & ((kind != _DELETION) == (width != 0))
    bytes_ = width * _ITEM_BYTES[np.where(good, kind, 0)]
    good &= HEADER.itemsize + bytes_ + -bytes_ % 4 == words.shape[1] * 4
    good &= checksum(keys, words) == head["check"]
    return head, good


def _widened(words: npt.NDArray[np.uint32], kind: int, dim: int) -> Rows:
    body = np.ascontiguousarray(words[:, HEADER.itemsize // 4 :])
    if kind == 1:
        return body.view("<f4")
    if kind == 2:
        return body.view("<f2")[:, :dim].astype(np.float32)
    return from_bfloat16(body.view("<u2")[:, :dim])


def _narrowed(batch: RowBatch, dtype: RowDtype) -> npt.NDArray[Any]:
    rows = batch.rows
    if dtype == "float32":
        return np.ascontiguousarray(rows, "<f4")
    if dtype == "bfloat16":
        return to_bfloat16(rows)
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(rows.astype(np.float16))
    lost = np.isinf(half) & np.isfinite(rows)
    if lost.any():
        row, column = np.argwhere(lost)[0]
        raise StoreError(
            f"rows[{row}, {column}] of key {batch.keys[row]}: expected a number that float16 holds, "
            f"got {rows[row, column]}"
        )
    return half


def checksum(keys: Keys, words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Returns a multilinear hash (Dietzfelbinger 1996) of `words` [N, W], less the checksum itself, and of the keys.

    With the key in it a value that belongs to another key, or an answer in the wrong order, is seen as damaged.
    """
    factors = _factors(words.shape[1] + 2)
    sums: npt.NDArray[np.uint64] = np.einsum("nw,w->n", words, factors[:-2], dtype=np.uint64, casting="unsafe")
    sums += (keys & np.uint64(0xFFFF_FFFF)) * factors[-2] + (keys >> np.uint64(32)) * factors[-1]
    return (sums >> np.uint64(32)).astype(np.uint32)


@cache
def _factors(count: int) -> npt.NDArray[np.uint64]:
    """Returns odd 64-bit factors, the outputs of SplitMix64; 0 for the word that holds the checksum."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = (z ^ (z >> np.uint64(31))) | np.uint64(1)
    z[_CHECK_WORD] = 0
    z.flags.writeable = False
    return z
