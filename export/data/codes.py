"""Ids as small integers: per table, the position of a key among the distinct keys of the data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pepnet_infer.encode import ragged
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import MISSING_KEY, Keys

if TYPE_CHECKING:
    from pepnet_infer.encode.features import Features

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class BagCodes:
    """A bag field: the codes of row b are codes[offsets[b] : offsets[b + 1]]."""

    codes: Codes
    offsets: npt.NDArray[np.int64]

    def take(self, rows: npt.NDArray[np.int64]) -> BagCodes:
        """Returns the bags of `rows`."""
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        offsets = ragged.to_offsets(lengths)
        return BagCodes(self.codes[ragged.gather(starts, offsets)], offsets)


@dataclass(frozen=True)
class CodedIds:
    """The id and bag fields of a data set. Fields that share a table share its codes."""

    keys: Mapping[str, Keys]  # table → distinct keys, ascending; code c stands for keys[c]
    ids: Mapping[str, Codes]  # id field → [N]
    bags: Mapping[str, BagCodes]  # bag field

    @classmethod
    def of(cls, schema: FeatureSchema, features: Features) -> CodedIds:
        """Numbers the keys of `features`."""
        raw = {name: np.asarray(keys) for name, keys in features.ids.items()}
        raw.update({name: np.asarray(bag.keys) for name, bag in features.bags.items()})
        keys: dict[str, Keys] = {}
        coded: dict[str, Codes] = {}
        for table in schema.tables:
            fields = [f.name for f in schema.fields if f.table == table.name]
            distinct = {name: np.unique(raw[name], return_inverse=True) for name in fields}
            union = np.unique(np.concatenate([np.empty(0, np.uint64), *(d[0] for d in distinct.values())]))
            keys[table.name] = union
            for name, (values, inverse) in distinct.items():
                coded[name] = np.searchsorted(union, values).astype(np.int32)[inverse]
        return cls(
            keys,
            {name: coded[name] for name in features.ids},
            {name: BagCodes(coded[name], np.asarray(bag.offsets)) for name, bag in features.bags.items()},
        )

    def of_table(
        self, schema: FeatureSchema, table: str, rows: npt.NDArray[np.int64]
    ) -> tuple[list[Codes], list[BagCodes]]:
        """Returns the codes that `rows` have in `table`, by id field and by bag field."""
        fields = {f.name for f in schema.fields if f.table == table}
        ids = [codes[rows] for name, codes in self.ids.items() if name in fields]
        return ids, [bag.take(rows) for name, bag in self.bags.items() if name in fields]

    def counts(self, schema: FeatureSchema, table: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns how often each code of `table` occurs in `rows`, int64 [number of codes]."""
        size = len(self.keys[table])
        ids, bags = self.of_table(schema, table, rows)
        total = np.zeros(size, np.int64)
        for codes in [*ids, *(bag.codes for bag in bags)]:
            total += np.bincount(codes, minlength=size)
        return total

    def known(self, schema: FeatureSchema, rows: npt.NDArray[np.int64], min_count: int) -> dict[str, Codes]:
        """Returns per table the codes with a row of their own: those that occur `min_count` times in `rows`."""
        known: dict[str, Codes] = {}
        for table in schema.tables:
            enough = self.counts(schema, table.name, rows) >= min_count
            enough &= self.keys[table.name] != MISSING_KEY
            known[table.name] = np.flatnonzero(enough).astype(np.int32)
        return known
