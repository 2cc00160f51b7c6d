"""Ways to break a bundle: each is a function of its folder, and lists what it leaves where that is not the fault."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from forged import Break, manifest, relist, tensors

from pepnet_infer.schema.feature_schema import FeatureSchema

RIGHT = {"bytes": 17, "sha256": hashlib.sha256(b"nobody's business").hexdigest()}


def put_in(part: str, key: str, value: object) -> Break:
    return manifest(lambda data: data[part].__setitem__(key, value))


def unfit(data: dict[str, Any]) -> None:
    """Takes its mean from a dense field of a manifest."""
    next(field for field in data["schema"]["fields"] if field["kind"] == "dense")["mean"] = None
    data["schema_hash"] = FeatureSchema.from_json(data["schema"]).hash


def text(name: str, content: str | bytes) -> Break:
    return lambda root: (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def parity(change: Callable[[dict[str, Any]], object]) -> Break:
    """Changes `parity.json`, and lists it as it is then."""

    def apply(root: Path) -> None:
        data = json.loads((root / "parity.json").read_text())
        change(data)
        (root / "parity.json").write_text(json.dumps(data))
        relist(root, "parity.json")

    return apply


def retext(name: str, content: bytes) -> Break:
    return all_of(text(name, content), lambda root: relist(root, name))


def set_tensor(name: str, key: str, value: Any) -> Break:
    return tensors(name, lambda values: values.__setitem__(key, value(values[key]) if callable(value) else value))


def spoil(place: tuple[int, ...], value: float) -> Callable[[np.ndarray], np.ndarray]:
    def apply(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[place] = value
        return array

    return apply


def flip(name: str) -> Break:
    def apply(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        data[len(data) // 2] ^= 1
        (root / name).write_bytes(data)

    return apply


def link(name: str, to: str, as_is: bool = False) -> Break:
    """Replaces a file by a symlink, to an exact copy of it unless `as_is`."""

    def apply(root: Path) -> None:
        target = root.parent / to
        if not as_is:
            shutil.move(root / name, target)
        os.symlink(target, root / name)

    return apply


def all_of(*steps: Break) -> Break:
    def apply(root: Path) -> None:
        for step in steps:
            step(root)

    return apply
