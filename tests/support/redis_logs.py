"""Names for logs in one Redis server, and what lies there."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pepnet_infer.sync.delta import read_head
from pepnet_infer.sync.logs.redis import RedisLog

NAMES = (f"redis{number}" for number in itertools.count())
Delta = Callable[..., Path]


def versions(log: RedisLog, after: str = "", **options: Any) -> list[int]:
    return [read_head(entry.path).model_version for entry in log.read(after, **options)]


def keys(client: Any, log: RedisLog) -> set[str]:
    return {key.decode().removeprefix(log.prefix) for key in client.scan_iter(f"{log.prefix}*", count=10_000)}
