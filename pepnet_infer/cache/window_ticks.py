"""A thread that applies the updates that a window has held once their interval is over."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence

from pepnet_infer.cache.embedding_cache import EmbeddingCache


class WindowTicks:
    """Ticks every `interval` seconds, until `close` or until nobody holds the caches any more. A daemon thread."""

    def __init__(self, caches: Sequence[EmbeddingCache], interval: float) -> None:
        self._caches, self._interval = [weakref.ref(cache) for cache in caches], interval
        self._closed = False
        self.start()

    def start(self) -> None:
        """Starts the thread; in a child process again, where it is not."""
        self._end = threading.Event()
        if not self._closed:
            threading.Thread(
                target=_tick, args=(self._caches, self._interval, self._end), name="pepnet-updates", daemon=True
            ).start()

    def close(self) -> None:
        """Ends the thread. What is still held stays held, until `EmbeddingCache.flush`."""
        self._closed = True
        self._end.set()


def _tick(caches: Sequence[weakref.ref[EmbeddingCache]], interval: float, end: threading.Event) -> None:
    while not end.wait(interval):
        there = [cache for ref in caches if (cache := ref()) is not None]
        if not there:
            return
        for cache in there:
            cache.flush(ended=True)
        del there, cache
