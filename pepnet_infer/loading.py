"""How an engine was asked to be loaded: all that is needed to do the same with another version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pepnet_infer import backends
from pepnet_infer.bundle import Bundle
from pepnet_infer.cache.config import CacheConfig
from pepnet_infer.cache.over_bundle import open_rows
from pepnet_infer.served import Served
from pepnet_infer.store import RowSource, Store


@dataclass(frozen=True)
class Loading:
    """The arguments of `Engine.load`."""

    backend: str
    precision: str
    threads: int | None
    provider: str | None
    cache: CacheConfig | Literal["default"] | None
    store: RowSource | Store | None
    options: Mapping[str, object]

    def dense(self, bundle: Bundle) -> backends.Backend:
        """Returns what runs the dense part of `bundle`. Raises what `backends.create` raises."""
        return backends.create(bundle, self.backend, self.precision, self.threads, self.provider, self.options)

    def served(self, bundle: Bundle) -> Served:
        """Opens everything that scores of `bundle` are made of."""
        backend = self.dense(bundle)
        return Served.of(bundle, open_rows(bundle, self.cache, self.store), backend)
