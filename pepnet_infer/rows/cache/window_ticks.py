"""A thread that applies the updates that a window has held once their interval is over."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence

from pepnet_infer.errors import StoreError
from pepnet_infer.process.cpu import NO_THREAD
from pepnet_infer.rows.cache.embedding_cache import EmbeddingCache


class WindowTicks:
    """Ticks every `interval` seconds, until `close` or until nobody holds the caches any more. A daemon thread."""

    def __init__(self, caches: Sequence[EmbeddingCache], interval: float) -> None:
        self._caches, self._interval = [weakref.ref(cache) for cache in caches], interval
        self._closed = False
        self.start()

    def start(self) -> None:
        """Starts the thread; in a child process again, where it is not. Raises StoreError if it cannot be had."""
        self._end = threading.Event()
        if self._closed:
            return
        args = (self._caches, self._interval, self._end)
        try:
            threading.Thread(target=_tick, args=args, name="pepnet-updates", daemon=True).start()
        except RuntimeError as error:
            wanted = "update_window: expected a thread to apply updates with when their interval is over"
            raise StoreError(f"{wanted}, but {NO_THREAD}, or load without a window") from error

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
