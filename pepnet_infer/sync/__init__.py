"""Online sync: what a trainer publishes reaches every engine that follows, as whole versions.

`delta` is what one training pass changed; `logs` carry deltas and bundles; `follower` brings an engine up to
date. docs/sync.md shows them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pepnet_infer.lazy_names import lazily

if TYPE_CHECKING:
    from pepnet_infer.sync.follow_config import FollowConfig, Guard
    from pepnet_infer.sync.follower import Follower
    from pepnet_infer.sync.logs.directory import DirectoryLog
    from pepnet_infer.sync.logs.open import open_transport
    from pepnet_infer.sync.logs.redis import RedisLog
    from pepnet_infer.sync.logs.transport import Transport

__all__ = [
    "DirectoryLog",
    "FollowConfig",
    "Follower",
    "Guard",
    "RedisLog",
    "Transport",
    "open_transport",
]

__getattr__ = lazily(
    __name__,
    {
        "DirectoryLog": "pepnet_infer.sync.logs.directory",
        "FollowConfig": "pepnet_infer.sync.follow_config",
        "Follower": "pepnet_infer.sync.follower",
        "Guard": "pepnet_infer.sync.follow_config",
        "RedisLog": "pepnet_infer.sync.logs.redis",
        "Transport": "pepnet_infer.sync.logs.transport",
        "open_transport": "pepnet_infer.sync.logs.open",
    },
)


def __dir__() -> list[str]:
    return __all__
