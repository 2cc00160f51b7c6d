"""What the stores that take updates have in common: arguments checked, writes cut into rounds, values of bytes read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import Tally
from pepnet_infer.bundle.table_file import open_table
from pepnet_infer.errors import StoreError
from pepnet_infer.process.closing import Closing
from pepnet_infer.rows.protocols import Rows, WritableStore
from pepnet_infer.rows.stores.record import Remember, RowDtype, decode
from pepnet_infer.schema.feature_schema import TableSpec
from pepnet_infer.schema.ids import ID_BITS, Keys
from pepnet_infer.schema.row_batch import Positions, RowBatch
from pepnet_infer.validation import check_option

CHUNK = 1 << 14  # rows a call of `fill_from`
_NO_TABLE = 0xFFFF  # a number that no table has: that of `ids.MISSING_KEY`


class Writable(ABC):
    """The writing half of a `WritableStore`."""

    def __init__(self, remember: float, clock: Callable[[], float]) -> None:
        self._remember, self._clock = check_option("remember", remember, Remember), clock

    @abstractmethod
    def _write(self, batch: RowBatch) -> int:
        """Writes rows or, of width 0, deletions made at `expires`, that are newer. Returns how many were applied."""

    def put_many(
        self,
        keys: Keys,
        rows: Rows,
        versions: npt.NDArray[np.uint64],
        scores: npt.NDArray[np.float32] | None = None,
        expires: npt.NDArray[np.float64] | None = None,
    ) -> int:
        """Writes rows [N, dim] that are newer; see `WritableStore.put_many`."""
        check_keys(keys)
        if rows.dtype != np.float32 or rows.ndim != 2 or len(rows) != keys.size or rows.shape[1] == 0:
            raise StoreError(f"rows: expected float32 [{keys.size}, dim], got {_show(rows)}")
        batch = RowBatch.of(rows, keys=keys, scores=scores, expires=expires)
        return self._write(_checked(replace(batch, versions=versions)))

    def delete_many(self, keys: Keys, versions: npt.NDArray[np.uint64]) -> int:
        """Deletes what is older; see `WritableStore.delete_many`."""
        check_keys(keys)
        nothing = RowBatch.nothing(keys.size, 0, keys=keys)
        return self._write(_checked(replace(nothing, versions=versions, expires=np.full(keys.size, self._clock()))))


class RecordStore(Writable, Closing):
    """A store of bytes, whose values are laid out in `record`."""

    def __init__(self, dtype: RowDtype, remember: float, clock: Callable[[], float]) -> None:
        super().__init__(remember, clock)
        self.dtype: RowDtype = check_option("dtype", dtype, RowDtype)  #: of rows that are written
        self._damaged = Tally()

    @property
    def damaged(self) -> int:
        """How many values were read that are damaged or of another width, and so not found."""
        return self._damaged.read().get("damaged", (0,))[0]

    def _decode(self, keys: Keys, values: Sequence[bytes | None], dim: int) -> RowBatch:
        got = decode(keys, values, dim, self._clock(), self._remember)
        if got.damaged is not None:
            self._damaged.add([("damaged", (int(got.damaged.sum()),))])
        return got


def fill_from(
    store: WritableStore,
    paths: Mapping[str, Path],
    specs: Mapping[str, TableSpec] | None = None,
    *,
    version: int = 0,
) -> int:
    """Puts every row of table files (name → file, as `Bundle.table_paths` has them) with its score, piece by piece.

    All get `version`: what the store has of that version or a newer one stays. Returns how many rows were applied.
    `specs` adds the widths and numbers to expect. Raises BundleError for a damaged file, StoreError as the store does.
    """
    applied = 0
    for name, path in paths.items():
        table = open_table(path, None if specs is None else specs[name])
        for begin in range(0, table.keys.size, CHUNK):
            batch = table.take(slice(begin, begin + CHUNK))
            versions = np.full(batch.keys.size, version, np.uint64)
            applied += store.put_many(batch.keys, batch.rows, versions, batch.scores)
    return applied


def nan_expiry(expires: npt.NDArray[np.float64]) -> str | None:
    """Returns what is wrong with times of expiry, None where nothing is."""
    nan = np.isnan(expires)
    return f"expires[{int(np.argmax(nan))}]: expected Unix seconds or inf, got NaN" if nan.any() else None


def check_keys(keys: Keys) -> None:
    """Raises StoreError unless `keys` are uint64 [N]."""
    if keys.dtype != np.uint64 or keys.ndim != 1:
        raise StoreError(f"keys: expected uint64 [N], got {_show(keys)}")


def key_bytes(keys: Keys) -> list[bytes]:
    """Returns the 8 bytes of each key, the largest first, so that the rows of a table lie together."""
    names: list[bytes] = keys.astype(">u8").view("V8").tolist()
    return names


def rounds(keys: Keys) -> Iterator[Positions]:
    """Yields positions so that keys are distinct and ascending within a round, and each key's come in their order."""
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    starts = np.append(True, sorted_keys[1:] != sorted_keys[:-1])[: keys.size]
    if starts.all():
        if keys.size:
            yield order
        return
    begins = np.flatnonzero(starts)
    nth = np.arange(keys.size) - begins[np.cumsum(starts) - 1]
    for n in range(int(nth.max()) + 1):
        yield order[nth == n]


def _checked(batch: RowBatch) -> RowBatch:
    """Returns a batch that can be written, all of its columns of one length. Raises StoreError for another."""
    keys = batch.keys
    problem = batch.misfit(keys.size, batch.rows.shape[1]) or nan_expiry(batch.expires)
    if problem is not None:
        raise StoreError(problem)
    if keys.size and int(keys.max()) >> ID_BITS == _NO_TABLE:
        raise StoreError(f"keys[{int(np.argmax(keys))}]: expected a table number below {_NO_TABLE}, got {keys.max()}")
    return batch


def _show(array: npt.NDArray[np.generic]) -> str:
    return f"{array.dtype.name} {list(array.shape)}"
