"""A delta to break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sync_deltas import make

from pepnet_infer.export.checkpoint import Checkpoint
from pepnet_infer.sync.delta import Delta, open_delta


@pytest.fixture
def root(toy_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A delta to break, with a secret beside it."""
    (tmp_path / "secret").write_text("nobody's business")
    return make(tmp_path / "delta", toy_checkpoint)


@pytest.fixture
def check(toy_checkpoint: Checkpoint) -> Callable[[Path], Delta]:
    return lambda root: open_delta(root, toy_checkpoint.schema, toy_checkpoint.config)
