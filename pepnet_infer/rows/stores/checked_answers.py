"""A store's answers, made trustworthy: what reaches the cache is whole, or it is a StoreError."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pepnet_infer.errors import StoreError
from pepnet_infer.rows.protocols import Store
from pepnet_infer.rows.stores.writable import nan_expiry
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import RowBatch


class _WrongAnswer(StoreError):
    """Something about the keys that were asked for, and not that the store cannot be reached."""


def ask(store: Store, keys: Keys, dim: int) -> RowBatch:
    """Returns what `store` has of `keys`, as `Store.get_many` says. Raises StoreError with the cause, and nothing else.

    Where a store cannot answer because of what it has of one key (a row of another width that it cannot put beside the
    others, a value that it cannot read), that key alone is `damaged`: the keys are asked for again in halves. Errors of
    the operating system and StoreError say that the store is not there, and are not tried again.

    Rows may hold any number, NaN included: the engine flags what scores they lead to (`Scores.invalid`).
    """
    try:
        answer = _ask(store, keys, dim)
    except _WrongAnswer as error:
        answer = _in_parts(store, keys, dim, error)
    if answer.damaged is not None:
        answer = replace(answer, found=answer.found & ~answer.damaged)  # whatever the store says of both
    return answer


def _ask(store: Store, keys: Keys, dim: int) -> RowBatch:
    name = type(store).__name__
    try:
        # A copy: rows would go to wrong ids where a store sorts its keys, or takes the table's number off them.
        answer = store.get_many(keys.copy(), dim)
    except StoreError:
        raise
    except Exception as error:
        kind = StoreError if isinstance(error, OSError | MemoryError) else _WrongAnswer
        raise kind(f"{name}: expected an answer, got {type(error).__name__}: {error}") from error
    problem = _problem(answer, keys.size, dim)
    if problem is not None:
        raise _WrongAnswer(f"{name}: {problem}")
    return answer


def _in_parts(store: Store, keys: Keys, dim: int, error: _WrongAnswer) -> RowBatch:
    """Returns what is had of `keys`, less those that cannot be answered for. Raises `error` where none can.

    A key among N takes 2 log2 N questions; after twice as many the rest counts as damaged.
    """
    depth = int(keys.size).bit_length()
    got = replace(RowBatch.nothing(keys.size, dim), damaged=np.ones(keys.size, np.bool_))
    parts, asked, answered = [(0, keys.size)], 0, 0
    while parts and asked <= 4 * depth and (answered or asked <= depth):
        begin, end = parts.pop()
        if end - begin < 2:
            continue
        middle = (begin + end) // 2
        for half in ((begin, middle), (middle, end)):
            asked += 1
            try:
                part = _ask(store, keys[slice(*half)], dim)
            except _WrongAnswer:
                parts.append(half)
            else:
                answered += 1
                got = got.put(np.arange(*half), replace(part, damaged=part.damage()))
    if not answered:
        raise StoreError.of(error) from error.__cause__
    return got


def _problem(answer: object, count: int, dim: int) -> str | None:
    if not isinstance(answer, RowBatch):
        return f"expected RowBatch, got {type(answer).__name__}"
    problem = answer.misfit(count, dim)
    if problem is not None:
        return problem
    for name in ("rows", "found", "versions", "scores", "expires"):
        array = getattr(answer, name)
        if not array.flags.c_contiguous:
            return f"{name}: expected an array without gaps, got one with strides {array.strides}"
    return nan_expiry(answer.expires)
