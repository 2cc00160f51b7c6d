"""Arguments for calls of the extension: mostly what is expected, now and then of odd dtypes, shapes, strides or values.

Arrays lie between guards of a known pattern: what is written past the end of one is seen.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import prod
from random import Random
from typing import Any

import numpy as np

from fuzz.mutations import FLOATS, NUMBERS, OTHERS, TEXTS, extreme

GUARD = 64  # bytes on both sides of an array
_PATTERN = bytes([0xA5]) * GUARD
SMALL = (0, 1, 1, 2, 3, 4, 5, 8, 17)
_DTYPES = ("u8", "i8", "f4", "f8", "f2", "u1", "i4", "?", "u2", ">u8", ">f4", "c8", "O", "U2", "S3", "M8[s]", "f4,f4")


@dataclass(frozen=True)
class Ref:
    """What an earlier call returned."""

    call: int


@dataclass
class Call:
    """A call of `name` of the extension, or of a method of what the first call returned."""

    name: str
    args: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)


class Draw:
    """Draws arguments: mostly what is expected, and now and then anything."""

    def __init__(self, random: Random, usable: list[tuple[str, str]]) -> None:
        self.random = random
        self.count = random.choice(SMALL)
        self.dim = random.choice((1, 1, 2, 3, 4, 7, 16, 33))
        self.isa, self.precision = random.choice(usable)
        self.most_odd = random.choice((0.0, 0.03, 0.03, 0.15))

    def odd(self) -> bool:
        """Whether the next argument is something else than what is expected."""
        return self.random.random() < self.most_odd

    def array(self, dtype: str, *shape: int, values: Any = None) -> Any:
        """Returns an array between guards, of drawn values, or one that is odd."""
        random = self.random
        if self.odd():
            return self._odd_array(dtype, shape)
        made = guarded(dtype, shape)
        if values is not None:
            made[...] = np.resize(values, shape) if prod(shape) else 0
        elif made.dtype.kind == "f":
            made[...] = (
                0.5
                if random.random() < 0.3
                else np.frombuffer(random.randbytes(prod(shape)), np.uint8).reshape(shape) / 64 - 2
            )
        elif random.random() < 0.5:
            made[...] = np.arange(prod(shape)).reshape(shape)
        else:
            top = random.choice((2, 9, 100, 2 if made.itemsize < 4 else 2**20))
            made[...] = np.array([random.randrange(top) for _ in range(prod(shape))], made.dtype).reshape(shape)
        if self.odd() and made.size:
            for _ in range(random.choice((1, made.size))):
                made.flat[random.randrange(made.size)] = extreme(random, made.dtype)
        return made

    def keys(self, *shape: int) -> Any:
        """Returns keys that meet now and then, in any order."""
        shape = shape or (self.count,)
        random, size = self.random, prod(shape)
        base = random.choice((0, 0, 1 << 48, 5 << 48, 2**64 - 40))
        distinct = random.random() < 0.5
        values = (
            random.sample(range(40), size) if distinct and size <= 40 else [random.randrange(40) for _ in range(size)]
        )
        return self.array("u8", *shape, values=np.array([base + min(v, 39) for v in values], np.uint64))

    def offsets(self, bags: int, most: int) -> Any:
        """Returns where bags begin among `most` values."""
        cuts = sorted(self.random.randrange(most + 1) for _ in range(max(bags - 1, 0)))
        return self.array("i8", bags + 1, values=np.array([0, *cuts, most][: bags + 1], np.int64))

    def one(self, *values: Any) -> Any:
        """Returns one of the values, or something that nobody expects."""
        return self.random.choice((*NUMBERS, *TEXTS, *OTHERS, *FLOATS)) if self.odd() else self.random.choice(values)

    def maybe(self, make: Callable[[], Any]) -> Any:
        """Returns nothing, or what `make` does."""
        return None if self.random.random() < 0.4 else make()

    def _odd_array(self, dtype: str, shape: tuple[int, ...]) -> Any:
        random = self.random
        how = random.randrange(14)
        other = tuple(random.choice((s, s + 1, max(s - 1, 0), 0, 2 * s, 65)) for s in shape)
        if how == 0:
            return guarded(dtype, other)
        if how == 1:
            made = np.zeros(shape, random.choice(_DTYPES))
            return made
        if how == 2:
            return guarded(dtype, tuple(2 * s for s in shape))[tuple(slice(None, None, 2) for _ in shape)]
        if how == 3:
            return guarded(dtype, shape)[tuple(slice(None, None, -1) for _ in shape)]
        if how == 4:
            return guarded(dtype, shape[::-1]).T
        if how == 5:
            raw = np.zeros(prod(shape) * np.dtype(dtype).itemsize + 1, np.uint8)
            return raw[1:].view(dtype).reshape(shape)
        if how == 6:
            made = guarded(dtype, shape)
            made.flags.writeable = False
            return made
        if how == 7:
            return np.broadcast_to(np.zeros((), dtype), random.choice((shape, (2**40,), (2**31, 2**20), other)))
        if how == 8:
            return guarded(dtype, random.choice(((*shape, 1), (1, *shape), shape[:-1], (1,) * 8, (0,) * 4, ())))
        if how == 9:  # rows that overlap, or lie in one another's place
            wide = random.choice(((len(shape) or 1) * (0,), (4,) * (len(shape) or 1)))
            return np.lib.stride_tricks.as_strided(guarded(dtype, (8,)), (2,) * len(wide), wide)
        if how == 10:
            return np.zeros(shape, dtype).tolist()
        if how == 11:
            made = guarded(dtype, shape)
            for _ in range(random.choice((1, max(made.size, 1)))):
                if made.size:
                    made.flat[random.randrange(made.size)] = extreme(random, made.dtype)
            return made
        if how == 12:
            return random.choice((None, 0, 1.5, "x", b"x", object(), np.float32(1), memoryview(b"1234"), {}, ()))
        return np.asfortranarray(guarded(dtype, shape))


def guarded(dtype: str, shape: tuple[int, ...]) -> Any:
    """Returns zeros with a pattern before and after them."""
    kind = np.dtype(dtype)
    size = prod(shape) * kind.itemsize
    whole = np.empty(2 * GUARD + size, np.uint8)
    whole[:GUARD] = whole[GUARD + size :] = 0xA5
    inside = whole[GUARD : GUARD + size]
    inside[:] = 0
    return inside.view(kind).reshape(shape)


def check_guards(arg: Any) -> None:
    if isinstance(arg, list | tuple):
        for item in arg:
            check_guards(item)
    if not isinstance(arg, np.ndarray):
        return
    whole: Any = arg
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    if whole.dtype == np.uint8 and whole.ndim == 1 and whole.size >= 2 * GUARD and isinstance(whole, np.ndarray):
        data = ctypes.string_at(whole.ctypes.data, whole.size)
        if data[:1] == _PATTERN[:1] and (data[:GUARD] != _PATTERN or data[-GUARD:] != _PATTERN):
            raise AssertionError(f"written beyond an array of {arg.dtype} {arg.shape}")


def resolved(arg: Any, results: list[Any]) -> Any:
    if isinstance(arg, Ref):
        return results[arg.call] if arg.call < len(results) else None
    if isinstance(arg, partial):
        return partial(arg.func, *resolved(arg.args, results))
    if isinstance(arg, tuple):
        return tuple(resolved(item, results) for item in arg)
    return [resolved(item, results) for item in arg] if isinstance(arg, list) else arg


def said(arg: Any) -> str:
    if isinstance(arg, np.ndarray):
        where = f"{arg.dtype} {arg.shape} strides {arg.strides}"
        return f"<{where}: {arg.tolist()}>" if arg.size < 40 else f"<{where}>"
    if isinstance(arg, list | tuple):
        return f"({', '.join(map(said, arg[:50]))})"
    return getattr(arg, "__qualname__", None) or f"{arg!r:.300}"
