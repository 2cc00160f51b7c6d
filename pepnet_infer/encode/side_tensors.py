"""The tensors of a side table in a bundle: written, and checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.encode.features import Bag, Features
from pepnet_infer.errors import BundleError
from pepnet_infer.quoting import quote
from pepnet_infer.schema.feature_schema import FeatureSchema, FieldSpec, JoinSpec
from pepnet_infer.schema.ids import ID_BITS, MAX_ID, MISSING_KEY, Keys

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
