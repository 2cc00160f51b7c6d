"""Manifests changed by a forger, who would keep everything else right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pepnet_infer.bundle.bundle import read_tensors
from pepnet_infer.storage.tensorfile import write_tensors

Break = Callable[[Path], Any]


def manifest(change: Callable[[dict[str, Any]], object]) -> Break:
    """Changes the manifest of a directory."""

    def apply(root: Path) -> None:
        data = json.loads((root / "manifest.json").read_text())
        change(data)
        (root / "manifest.json").write_text(json.dumps(data))

    return apply


def put(key: str, value: object) -> Break:
    return manifest(lambda data: data.__setitem__(key, value))


def drop(key: str) -> Break:
    return manifest(lambda data: data.pop(key))


def listed(name: str, entry: object) -> Break:
    """Lists a file as `entry` says."""
    return manifest(lambda data: data["files"].__setitem__(name, entry))


def relist(root: Path, name: str) -> None:
    """Lists `name` as it is now: what is left to find is what is in it."""
    data = (root / name).read_bytes()
    listed(name, {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})(root)


def tensors(name: str, change: Callable[[dict[str, Any]], object]) -> Break:
    """Changes the tensors of a file, and lists it as it is then."""

    def apply(root: Path) -> None:
        values = read_tensors(root / name)
        change(values)
        (root / name).unlink()
        write_tensors(root / name, values)
        relist(root, name)

    return apply
