"""A store's answers, made trustworthy: what reaches the cache is whole, or it is a StoreError."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pepnet_infer._kernels import Tally
from pepnet_infer.errors import StoreError
from pepnet_infer.rows.protocols import Store, check_reachable
from pepnet_infer.rows.stores.writable import nan_expiry
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import RowBatch


@dataclass(frozen=True)
class StoreCounts:
    """What a store was asked, and how often it could not answer."""

    calls: int
    keys: int  # asked for, in all calls
    found: int
    failed: int  # calls that raised
    malformed: int  # calls that returned something that does not fit the keys
    damaged: int  # keys of which something is stored that cannot be served


class _WrongAnswer(StoreError):
    """Something about the keys that were asked for, and not that the store cannot be reached."""


class CheckedStore:
    """A `Store` in front of another: takes no partial answer, no wrong shape or type, and no error but StoreError.

    Where a store cannot answer because of what it has of one key (a row of another width that it cannot put beside the
    others, a value that it cannot read), that key alone is `damaged`: the keys are asked for again in halves. Errors of
    the operating system and StoreError say that the store is not there, and are not tried again.

    Rows may hold any number, NaN included: the engine flags what scores they lead to (`Scores.invalid`).
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._tally = Tally()

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        """Returns what `store` returns, checked. Raises StoreError with the cause, counted as failed or malformed."""
        try:
            answer = self._ask(keys, dim)
        except _WrongAnswer as error:
            answer = self._in_parts(keys, dim, error)
        damaged = 0
        if answer.damaged is not None:
            damaged = int(np.count_nonzero(answer.damaged))
            answer = replace(answer, found=answer.found & ~answer.damaged)  # whatever the store says of both
        self._tally.add([(None, (0, 0, int(np.count_nonzero(answer.found)), 0, 0, damaged))])
        return answer

    def check_reachable(self) -> None:
        """Asks `store`, where it can say whether it can be read. Raises StoreError."""
        check_reachable(self.store)

    @property
    def counts(self) -> StoreCounts:
        """What was asked so far."""
        return StoreCounts(*self._tally.read().get(None, (0, 0, 0, 0, 0, 0)))

    def _ask(self, keys: Keys, dim: int) -> RowBatch:
        name, failed, malformed = type(self.store).__name__, 1, 0
        try:
            try:
                # A copy: rows would go to wrong ids where a store sorts its keys, or takes the table's number off them.
                answer = self.store.get_many(keys.copy(), dim)
            except (StoreError, OSError, MemoryError) as error:
                if isinstance(error, StoreError):
                    raise
                raise StoreError(f"{name}: expected an answer, got {type(error).__name__}: {error}") from error
            except Exception as error:
                raise _WrongAnswer(f"{name}: expected an answer, got {type(error).__name__}: {error}") from error
            failed = 0
            problem = _problem(answer, keys.size, dim)
            if problem is not None:
                malformed = 1
                raise _WrongAnswer(f"{name}: {problem}")
            return answer
        finally:
            self._tally.add([(None, (1, keys.size, 0, failed, malformed, 0))])

    def _in_parts(self, keys: Keys, dim: int, error: _WrongAnswer) -> RowBatch:
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
                    part = self._ask(keys[slice(*half)], dim)
                except _WrongAnswer:
                    parts.append(half)
                else:
                    answered += 1
                    got = got.put(np.arange(*half), replace(part, damaged=part.damage()))
        if not answered:
            raise StoreError.of(error) from error.__cause__
        return got


def checked(store: Store) -> CheckedStore:
    """Returns `store` as a CheckedStore, itself where it is one."""
    return store if isinstance(store, CheckedStore) else CheckedStore(store)


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
