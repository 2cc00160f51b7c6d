"""The one record of embedding rows: what a store answers, a delta changes, a write puts down, a checkpoint holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pepnet_infer.schema.ids import Keys

Rows = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: The keys of a batch whose order says which row belongs to which key, as of an answer to `Store.get_many`.
NO_KEYS: Keys = np.empty(0, np.uint64)
NO_KEYS.flags.writeable = False


@dataclass(frozen=True, eq=False)
class RowBatch:
    """N rows of width dim, and what is known of each, column by column.

    A column of which nothing is known has the value that says so, which `of` fills in: every row is found, of version
    0, without a score, and never expires. `damaged`, `keys` and `default` are left out where they say nothing. The
    constructor does not look at the arrays; whoever takes a batch from outside asks `misfit` once.
    """

    rows: Rows  #: float32 [N, dim]; zeros where `found` is false
    found: Mask  #: bool [N]; False: the key has no row, because nobody knows it or because it was deleted
    versions: npt.NDArray[np.uint64]  #: [N] of the row; where not found, of the deletion that is remembered, else 0
    scores: npt.NDArray[np.float32]  #: [N] GSET score of the id; NaN: none
    expires: npt.NDArray[np.float64]  #: [N] Unix seconds; inf: never
    #: bool [N]; what is stored cannot be used: it is of another width, or damaged. Such a key is not `found`, and not
    #: said to be unknown. None: no key is damaged
    damaged: Mask | None = None
    keys: Keys = field(default_factory=lambda: NO_KEYS)  #: uint64 [N]; empty where the order says whose rows they are
    #: float32 [dim] the row of ids that the table does not have. Of the table and not of a row: `take` and `concat`
    #: leave it out. None: not part of the batch
    default: Rows | None = None

    @classmethod
    def of(
        cls,
        rows: Rows,
        *,
        keys: Keys = NO_KEYS,
        found: Mask | None = None,
        versions: npt.NDArray[np.uint64] | int = 0,
        scores: npt.NDArray[np.float32] | None = None,
        expires: npt.NDArray[np.float64] | None = None,
        default: Rows | None = None,
    ) -> RowBatch:
        """Returns a batch of `rows` [N, dim]; columns that are left out say that nothing is known.

        versions: one a row, or one for all.
        """
        count = len(rows)
        return cls(
            rows,
            np.ones(count, np.bool_) if found is None else found,
            np.full(count, versions, np.uint64) if isinstance(versions, int) else versions,
            np.full(count, np.nan, np.float32) if scores is None else scores,
            np.full(count, np.inf) if expires is None else expires,
            None,
            keys,
            default,
        )

    @classmethod
    def nothing(cls, count: int, dim: int, *, keys: Keys = NO_KEYS, version: int = 0) -> RowBatch:
        """Returns a batch that says of `count` keys that none has a row: to be filled in, or their deletions."""
        rows = np.zeros((count, dim), np.float32)
        return cls.of(rows, keys=keys, found=np.zeros(count, np.bool_), versions=version)

    @staticmethod
    def concat(parts: Sequence[RowBatch], copy: bool = False) -> RowBatch:
        """Returns the rows of one or more batches of a width, one after another; `copy`: also where there is one."""
        if len(parts) == 1 and not copy:
            return parts[0] if parts[0].default is None else replace(parts[0], default=None)
        return RowBatch(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.found for part in parts]),
            np.concatenate([part.versions for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.expires for part in parts]),
            None if all(part.damaged is None for part in parts) else np.concatenate([part.damage() for part in parts]),
            np.concatenate([part.keys for part in parts]),
        )

    def take(self, at: slice | Positions | Mask) -> RowBatch:
        """Returns the rows at some positions, in that order: views for a slice, else copies."""
        return RowBatch(
            self.rows[at],
            self.found[at],
            self.versions[at],
            self.scores[at],
            self.expires[at],
            None if self.damaged is None else self.damaged[at],
            self.keys[at] if len(self.keys) else self.keys,
        )

    @property
    def entries(self) -> tuple[Keys, Rows, npt.NDArray[np.float32], Keys, npt.NDArray[np.float64]]:
        """What a cache writes of each row, in the order of `RowCache.write`."""
        return self.keys, self.rows, self.scores, self.versions, self.expires

    def ordered(self) -> RowBatch:
        """Returns the rows with their keys ascending."""
        return self.take(np.argsort(self.keys))

    def put(self, at: Positions, part: RowBatch) -> RowBatch:
        """Writes the rows of `part` over those at some positions, in place; keys stay. Returns the whole."""
        self.rows[at], self.found[at], self.versions[at] = part.rows, part.found, part.versions
        self.scores[at], self.expires[at] = part.scores, part.expires
        if part.damaged is None:
            return self
        damaged = self.damage()
        damaged[at] = part.damaged
        return replace(self, damaged=damaged)

    def damage(self) -> Mask:
        """Returns `damaged`, False for every key where it is None."""
        return np.zeros(len(self.found), np.bool_) if self.damaged is None else self.damaged

    def misfit(self, count: int, dim: int) -> str | None:
        """Returns which column is no array of the type and shape above, N being `count`, and how; None: all fit."""
        columns = {
            "rows": (np.float32, (count, dim)),
            "found": (np.bool_, (count,)),
            "versions": (np.uint64, (count,)),
            "scores": (np.float32, (count,)),
            "expires": (np.float64, (count,)),
            "damaged": (np.bool_, (count,)),
            "keys": (np.uint64, (count,)),
            "default": (np.float32, (dim,)),
        }
        for name, (dtype, shape) in columns.items():
            array: object = getattr(self, name)
            if array is None and name in ("damaged", "default"):
                continue
            got = type(array).__name__
            if isinstance(array, np.ndarray):
                no_keys = name == "keys" and array.size == 0
                if no_keys or (array.dtype == dtype and array.shape == shape):
                    continue
                got = f"{array.dtype.str if array.dtype.byteorder == '>' else array.dtype} {list(array.shape)}"
            return f"{name}: expected {np.dtype(dtype).name} {list(shape)}, got {got}"
        return None
