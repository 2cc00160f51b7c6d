"""A call that is under way, as a block: versions of models are let go of when the calls that use them end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def pinned(versions: Any) -> Iterator[Any]:
    """Yields what new calls get; it is in use until the block ends, by a thread of its own."""
    given, done = queue.SimpleQueue[Any](), threading.Event()

    def call(held: Any) -> None:
        given.put(held)
        assert done.wait(60)

    thread = threading.Thread(target=versions.use, args=(call,))
    thread.start()
    try:
        yield given.get(timeout=60)
    finally:
        done.set()
        thread.join()
