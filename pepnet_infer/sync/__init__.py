"""Online sync: what a trainer publishes reaches every engine that follows, as whole versions.

`delta` is what one training pass changed; `logs` carry deltas and bundles; `follower` brings an engine up to
date. docs/sync.md shows them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pepnet_infer.lazy_names import lazily
from pepnet_infer.sync.follow_config import FollowConfig, Guard
from pepnet_infer.sync.follower import Follower
from pepnet_infer.sync.logs.directory import DirectoryLog
from pepnet_infer.sync.logs.open import open_transport
from pepnet_infer.sync.logs.transport import Transport

if TYPE_CHECKING:
    from pepnet_infer.sync.logs.redis import RedisLog

__all__ = ["DirectoryLog", "FollowConfig", "Follower", "Guard", "RedisLog", "Transport", "open_transport"]

__getattr__, __dir__ = lazily(__name__, {"pepnet_infer.sync.logs.redis": ("RedisLog",)})  # needs the package redis
