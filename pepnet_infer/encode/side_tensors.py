"""The tensors of a side table in a bundle: written, and checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.encode.features import Bag, Features
from pepnet_infer.errors import BundleError
from pepnet_infer.quoting import quote
from pepnet_infer.schema.feature_schema import FeatureSchema, FieldSpec, JoinSpec
from pepnet_infer.schema.ids import ID_BITS, MAX_ID, MISSING_KEY

if TYPE_CHECKING:
    from pepnet_infer.schema.ids import Keys

Tensors = Mapping[str, npt.NDArray[Any]]


def write_features(ids: Keys, features: Features) -> dict[str, npt.NDArray[Any]]:
    """Returns the tensors by name, each contiguous."""
    tensors: dict[str, npt.NDArray[Any]] = {"ids": ids}
    tensors.update({f"id.{name}": keys for name, keys in features.ids.items()})
    for name, bag in features.bags.items():
        tensors[f"bag.{name}.keys"], tensors[f"bag.{name}.offsets"] = bag.keys, bag.offsets
    tensors.update({f"dense.{name}": values for name, values in features.dense.items()})
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def read_features(
    schema: FeatureSchema, join: JoinSpec, specs: Sequence[FieldSpec], tensors: Tensors
) -> tuple[Keys, Features]:
    """Returns (ids, features of the fields `specs`).

    Raises BundleError unless exactly the tensors of these fields are there, ids ascend and are below 2^48, lengths
    agree, offsets fit their values, keys are of the field's table, and dense values are finite.
    """
    reader = _Reader(f"side table {quote(join.name)}", tensors)
    ids = reader.take("ids", np.uint64, None)
    if len(ids) and (ids[-1] >= MAX_ID or not (ids[1:] > ids[:-1]).all()):
        raise reader.error("ids", "ascending ids below 2^48", "others")
    features = Features(len(ids))
    for spec in specs:
        name = spec.name
        if spec.table is None:
            values = reader.take(f"dense.{name}", np.float32, len(ids))
            if not np.isfinite(values).all():
                raise reader.error(f"dense.{name}", "finite values", "NaN or infinity")
            features.dense[name] = values
            continue
        number = schema.table_by_name[spec.table].number
        if spec.kind == "id":
            tensor = f"id.{name}"
            keys = features.ids[name] = reader.take(tensor, np.uint64, len(ids))
            known = keys[keys != MISSING_KEY]
        else:
            tensor = f"bag.{name}.keys"
            known = keys = reader.take(tensor, np.uint64, None)
            offsets = reader.take(f"bag.{name}.offsets", np.int64, len(ids) + 1)
            if offsets[0] != 0 or offsets[-1] != len(keys) or (np.diff(offsets) < 0).any():
                raise reader.error(f"bag.{name}.offsets", f"offsets that ascend from 0 to {len(keys)}", "others")
            features.bags[name] = Bag(keys, offsets)
        if len(known) and (known >> np.uint64(ID_BITS) != number).any():
            raise reader.error(tensor, f"keys of table {quote(spec.table)} (number {number})", "keys of another")
    reader.finish()
    return ids, features


class _Reader:
    """Checks tensors one by one, and finds those that no field has."""

    def __init__(self, where: str, tensors: Tensors) -> None:
        self._where = where
        self._tensors = dict(tensors)

    def take(self, name: str, dtype: type[np.generic], length: int | None) -> npt.NDArray[Any]:
        if name not in self._tensors:
            raise BundleError(f"missing tensor {quote(name)}", within=self._where)
        tensor = self._tensors.pop(name)
        if tensor.dtype != dtype or tensor.ndim != 1 or (length is not None and len(tensor) != length):
            wanted = f"{np.dtype(dtype)} [{'n' if length is None else length}]"
            raise self.error(name, wanted, f"{tensor.dtype} {list(tensor.shape)}")
        return tensor

    def error(self, name: str, expected: str, got: str) -> BundleError:
        return BundleError(f"tensor {quote(name)}: expected {expected}, got {got}", within=self._where)

    def finish(self) -> None:
        if self._tensors:
            raise BundleError(f"unexpected tensor {quote(min(self._tensors))}", within=self._where)
