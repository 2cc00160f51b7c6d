"""Ids as small integers: per table, the position of a key among the distinct keys of the data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pepnet_infer.encode import ragged
from pepnet_infer.encode.features import Features
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import MISSING_KEY, Keys

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
    fields: Mapping[str, Collection[str]]  # table → the id and bag fields that read it

    @classmethod
    def of(cls, schema: FeatureSchema, features: Features) -> CodedIds:
        """Numbers the keys of `features`."""
        raw = {name: np.asarray(keys) for name, keys in features.ids.items()}
        raw.update({name: np.asarray(bag.keys) for name, bag in features.bags.items()})
        keys: dict[str, Keys] = {}
        coded: dict[str, Codes] = {}
        fields = {t.name: [f.name for f in schema.fields if f.table == t.name] for t in schema.tables}
        for table, names in fields.items():
            distinct = {name: np.unique(raw[name], return_inverse=True) for name in names}
            union = np.unique(np.concatenate([np.empty(0, np.uint64), *(d[0] for d in distinct.values())]))
            keys[table] = union
            for name, (values, inverse) in distinct.items():
                coded[name] = np.searchsorted(union, values).astype(np.int32)[inverse]
        return cls(
            keys,
            {name: coded[name] for name in features.ids},
            {name: BagCodes(coded[name], np.asarray(bag.offsets)) for name, bag in features.bags.items()},
            fields,
        )

    def sums(
        self, table: str, rows: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Returns for each code of `table` the sum over its occurrences in `rows` of the row's weight.

        weights [len(rows)]; returns float64 [number of codes].
        """
        size = len(self.keys[table])
        sums = np.zeros(size)
        for name, codes in self.ids.items():
            if name in self.fields[table]:
                sums += np.bincount(codes[rows], weights=weights, minlength=size)
        for name, bags in self.bags.items():
            if name in self.fields[table]:
                bag = bags.take(rows)
                sums += np.bincount(bag.codes, weights=np.repeat(weights, np.diff(bag.offsets)), minlength=size)
        return sums

    def known(self, rows: npt.NDArray[np.int64], min_count: int) -> dict[str, Codes]:
        """Returns per table the codes with a row of their own: those that occur `min_count` times in `rows`."""
        known: dict[str, Codes] = {}
        for table, keys in self.keys.items():
            enough = (self.sums(table, rows, np.ones(len(rows))) >= min_count) & (keys != MISSING_KEY)
            known[table] = np.flatnonzero(enough).astype(np.int32)
        return known
