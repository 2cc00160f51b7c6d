"""Side tables: features of an entity (a user, a video), encoded once and joined to the rows by id."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import SideRows
from pepnet_infer.encode.column_rule import ColumnRule
from pepnet_infer.encode.columns import Columns
from pepnet_infer.encode.decode import decode_ids
from pepnet_infer.encode.encoder import FieldPlan, join_rule, scale_of
from pepnet_infer.encode.features import Bag, Features
from pepnet_infer.encode.row_errors import RAISED
from pepnet_infer.errors import BundleError, SchemaError
from pepnet_infer.quoting import quote
from pepnet_infer.schema.feature_schema import FeatureSchema, FieldSpec, JoinSpec
from pepnet_infer.schema.ids import ID_BITS, MAX_ID, MISSING_KEY, Keys


class SideTable:
    """N entities: `ids` uint64 [N] ascending, `features` of N rows, and in `fills` what a dense field is without one.

    An entity that is not there has MISSING_KEY as id, an empty bag, and the fill. Never changed once made, so many
    threads may read it.
    """

    def __init__(self, ids: Keys, features: Features, fills: Mapping[str, float]) -> None:
        if set(fills) != set(features.dense):
            raise ValueError(f"fills: expected one for each of {sorted(features.dense)}, got {sorted(fills)}")
        if len(ids) != features.num_rows or (len(ids) > 1 and not (ids[1:] > ids[:-1]).all()):
            raise ValueError(f"ids: expected {features.num_rows} ascending ids, one a row")
        self.ids = ids
        self.fills = dict(fills)
        # One more row, the absent entity's, at the end. A row's fields lie side by side: one miss an entity.
        self._ids = np.full((len(ids) + 1, len(features.ids)), MISSING_KEY, np.uint64)
        self._dense = np.empty((len(ids) + 1, len(features.dense)), np.float32)
        self._dense[-1] = [self.fills[name] for name in features.dense]
        for place, keys in enumerate(features.ids.values()):
            self._ids[:-1, place] = keys
        for place, values in enumerate(features.dense.values()):
            self._dense[:-1, place] = values
        self._bags = dict(features.bags)
        self._id_fields, self._dense_fields = tuple(features.ids), tuple(features.dense)
        bags = [(bag.keys, np.append(bag.offsets, bag.offsets[-1])) for bag in features.bags.values()]
        self._rows = SideRows(ids, self._ids, self._dense, bags)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def features(self) -> Features:
        """The encoded fields, a row per entity."""
        ids = dict(zip(self._id_fields, self._ids[:-1].T, strict=True))
        dense = dict(zip(self._dense_fields, self._dense[:-1].T, strict=True))
        return Features(len(self.ids), ids, dict(self._bags), dense)

    @staticmethod
    def columns(schema: FeatureSchema, join: JoinSpec) -> tuple[str, ...]:
        """Returns the columns `build` reads: the key and those of the join's fields."""
        return tuple(dict.fromkeys([join.key, *(spec.column for spec in _fields(schema, join))]))

    @classmethod
    def build(cls, schema: FeatureSchema, join: JoinSpec, columns: Columns) -> SideTable:
        """Returns the table of `join`, from raw columns; the last row of a repeated key counts.

        Nulls are allowed except in the key, NaN is a null, and ids may come as floats that hold whole numbers.
        Raises SchemaError for anything else that is off, the table's name in front.
        """
        specs = _fields(schema, join)
        with SchemaError.in_place_of(SchemaError, within=f"side table {join.name!r}"):
            keyed = ColumnRule(join.key, hashed=join_rule(schema, join).hashed)
            ids, _ = decode_ids(keyed, columns[join.key], RAISED)
            features, _ = FieldPlan(schema, specs, lenient=True).encode(columns, RAISED)
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        last = np.append(ids[1:] != ids[:-1], True)[: len(ids)]
        return cls(ids[last], features.select(order[last]), _fills(specs))

    def reader(self, fields: Collection[str]) -> Callable[[Keys], Features]:
        """Returns the function from ids, uint64 [B], to their rows of some `fields`, prepared once for many calls."""
        names = [self._id_fields, self._dense_fields, tuple(self._bags)]
        wanted = [[name for name in part if name in fields] for part in names]
        places = [[part.index(name) for name in some] for part, some in zip(names, wanted, strict=True)]

        def take(ids: Keys) -> Features:
            keys, values, bags = self._rows.take(ids, *places)
            return Features(
                len(ids),
                dict(zip(wanted[0], keys, strict=True)),
                {name: Bag(*bag) for name, bag in zip(wanted[2], bags, strict=True)},
                dict(zip(wanted[1], values, strict=True)),
            )

        return take

    def to_tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Returns the arrays of `side/NAME.safetensors`: ids, id.FIELD, bag.FIELD.keys and .offsets, dense.FIELD.

        Each is contiguous.
        """
        features = self.features
        tensors: dict[str, npt.NDArray[Any]] = {"ids": self.ids}
        tensors.update({f"id.{name}": keys for name, keys in features.ids.items()})
        for name, bag in features.bags.items():
            tensors[f"bag.{name}.keys"], tensors[f"bag.{name}.offsets"] = bag.keys, bag.offsets
        tensors.update({f"dense.{name}": values for name, values in features.dense.items()})
        return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}

    @classmethod
    def from_tensors(cls, schema: FeatureSchema, join: JoinSpec, tensors: Mapping[str, npt.NDArray[Any]]) -> SideTable:
        """Returns the table that `to_tensors` gave.

        Raises BundleError unless exactly the tensors of the join's fields are there, ids ascend and are below 2^48,
        lengths agree, offsets fit their values, keys are of the field's table, and dense values are finite.
        """
        specs = _fields(schema, join)
        ids, features = _read(schema, join, specs, tensors)
        return cls(ids, features, _fills(specs))


def _fields(schema: FeatureSchema, join: JoinSpec) -> list[FieldSpec]:
    return [spec for spec in schema.fields if spec.join == join.name]


def _fills(specs: list[FieldSpec]) -> dict[str, float]:
    scales = {spec: scale_of(spec) for spec in specs if spec.kind == "dense"}
    return {spec.name: (spec.fill - mean) / std for spec, (mean, std) in scales.items()}


def _read(
    schema: FeatureSchema, join: JoinSpec, specs: Sequence[FieldSpec], tensors: Mapping[str, npt.NDArray[Any]]
) -> tuple[Keys, Features]:
    """Returns (ids, features of the fields `specs`). Raises BundleError."""
    where, left = f"side table {quote(join.name)}", dict(tensors)

    def error(name: str, expected: str, got: str) -> BundleError:
        return BundleError(f"tensor {quote(name)}: expected {expected}, got {got}", within=where)

    def take(name: str, dtype: type[np.generic], length: int | None = None) -> npt.NDArray[Any]:
        tensor = left.pop(name, None)
        if tensor is None:
            raise BundleError(f"missing tensor {quote(name)}", within=where)
        if tensor.dtype != dtype or tensor.ndim != 1 or length not in (None, len(tensor)):
            wanted = f"{np.dtype(dtype)} [{'n' if length is None else length}]"
            raise error(name, wanted, f"{tensor.dtype} {list(tensor.shape)}")
        return tensor

    ids = take("ids", np.uint64)
    if len(ids) and (ids[-1] >= MAX_ID or not (ids[1:] > ids[:-1]).all()):
        raise error("ids", "ascending ids below 2^48", "others")
    features = Features(len(ids))
    for spec in specs:
        name = spec.name
        if spec.table is None:
            values = features.dense[name] = take(f"dense.{name}", np.float32, len(ids))
            if not np.isfinite(values).all():
                raise error(f"dense.{name}", "finite values", "NaN or infinity")
            continue
        number = schema.table_by_name[spec.table].number
        if spec.kind == "id":
            tensor = f"id.{name}"
            keys = features.ids[name] = take(tensor, np.uint64, len(ids))
            known = keys[keys != MISSING_KEY]
        else:
            tensor = f"bag.{name}.keys"
            known = keys = take(tensor, np.uint64)
            offsets = take(f"bag.{name}.offsets", np.int64, len(ids) + 1)
            if offsets[0] != 0 or offsets[-1] != len(keys) or (np.diff(offsets) < 0).any():
                raise error(f"bag.{name}.offsets", f"offsets that ascend from 0 to {len(keys)}", "others")
            features.bags[name] = Bag(keys, offsets)
        if len(known) and (known >> np.uint64(ID_BITS) != number).any():
            raise error(tensor, f"keys of table {quote(spec.table)} (number {number})", "keys of another")
    if left:
        raise BundleError(f"unexpected tensor {quote(min(left))}", within=where)
    return ids, features
