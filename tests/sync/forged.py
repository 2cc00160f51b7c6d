"""Manifests changed by a forger, who would keep everything else right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
