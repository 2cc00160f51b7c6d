"""A store's answers, made trustworthy: what reaches the cache is whole, or it is a StoreError."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pepnet_infer._kernels import Tally
from pepnet_infer.errors import StoreError
from pepnet_infer.ids import Keys
from pepnet_infer.store import Fetched, Store


@dataclass(frozen=True)
class StoreCounts:
    """What a store was asked, and how often it could not answer."""

    calls: int
    keys: int  # asked for, in all calls
    found: int
    failed: int  # calls that raised
    malformed: int  # calls that returned something that does not fit the keys


class CheckedStore:
    """A `Store` in front of another: takes no partial answer, no wrong shape or type, and no error but StoreError.

    Rows may hold any number, NaN included: a model that was trained to NaN is the model's business.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._tally = Tally()

    def get_many(self, keys: Keys, dim: int) -> Fetched:
        """Returns what `store` returns, checked. Raises StoreError with the cause, counted as failed or malformed."""
        try:
            answer = self.store.get_many(keys, dim)
        except Exception as error:
            self._count(keys.size, 0, failed=1)
            if isinstance(error, StoreError):
                raise
            name = type(self.store).__name__
            raise StoreError(f"{name}: expected an answer, got {type(error).__name__}: {error}") from error
        problem = _problem(answer, keys.size, dim)
        if problem is not None:
            self._count(keys.size, 0, malformed=1)
            raise StoreError(f"{type(self.store).__name__}: {problem}")
        self._count(keys.size, int(np.count_nonzero(answer.found)))
        return answer

    @property
    def counts(self) -> StoreCounts:
        """What was asked so far."""
        return StoreCounts(*self._tally.read().get(None, (0, 0, 0, 0, 0)))

    def _count(self, keys: int, found: int, failed: int = 0, malformed: int = 0) -> None:
        self._tally.add([(None, (1, keys, found, failed, malformed))])


def checked(store: Store) -> CheckedStore:
    """Returns `store` as a CheckedStore, itself where it is one."""
    return store if isinstance(store, CheckedStore) else CheckedStore(store)


def _problem(answer: object, count: int, dim: int) -> str | None:
    if not isinstance(answer, Fetched):
        return f"expected Fetched, got {type(answer).__name__}"
    for name, dtype, shape in (
        ("rows", np.float32, (count, dim)),
        ("found", np.bool_, (count,)),
        ("versions", np.uint64, (count,)),
        ("scores", np.float32, (count,)),
        ("expires", np.float64, (count,)),
    ):
        array: object = getattr(answer, name)
        if isinstance(array, np.ndarray) and array.dtype == dtype and array.shape == shape and array.flags.c_contiguous:
            continue
        wanted = f"{name}: expected {np.dtype(dtype).name} {list(shape)}"
        if not isinstance(array, np.ndarray):
            return f"{wanted}, got {type(array).__name__}"
        if array.dtype != dtype or array.shape != shape:
            return (
                f"{wanted}, got {array.dtype.str if array.dtype.byteorder == '>' else array.dtype} {list(array.shape)}"
            )
        return f"{wanted} without gaps, got one with strides {array.strides}"
    nan = np.isnan(answer.expires)
    if nan.any():
        return f"expires[{int(np.argmax(nan))}]: expected Unix seconds or inf, got NaN"
    return None
