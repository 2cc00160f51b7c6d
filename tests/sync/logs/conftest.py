"""Logs in a real Redis server, and deltas of any size for them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis
from redis_logs import NAMES, Delta

from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.sync.delta import DeltaHead, write_delta
from pepnet_infer.sync.logs.redis import RedisLog


@pytest.fixture
def delta(tmp_path: Path, toy_schema: FeatureSchema) -> Delta:
    """Returns `delta(version, floats)`: with a graph and weights of so many random numbers."""

    def make(version: int, floats: int = 4) -> Path:
        dense = {"w": np.random.default_rng(version).standard_normal(floats).astype(np.float32)}
        head = DeltaHead(version - 1, version, version, 1e9, toy_schema.hash)
        return write_delta(tmp_path / "made" / f"{version}-{time.monotonic_ns()}", head, {}, dense, b"graph")

    return make


@pytest.fixture
def client(redis_server: Any) -> Iterator[Any]:
    with Redis.from_url(redis_server.url) as opened:
        yield opened


@pytest.fixture
def log(redis_server: Any, tmp_path: Path) -> Iterator[RedisLog]:
    with RedisLog(redis_server.url, next(NAMES), spool=tmp_path / "spool", create=True) as opened:
        yield opened
