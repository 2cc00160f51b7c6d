"""What tests of parquet scoring begin with: an engine, and three files to score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from offline_runs import write_inputs

from pepnet_infer import Engine


@pytest.fixture(scope="module")
def engine(toy_bundle: Path) -> Iterator[Engine]:
    with Engine.load(toy_bundle, check="sizes") as engine:
        yield engine


@pytest.fixture
def folder(toy_table: Callable[..., pa.Table], tmp_path: Path) -> Path:
    """A folder with three input files in `in`."""
    return write_inputs(toy_table, tmp_path)
