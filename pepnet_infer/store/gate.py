"""A lock that many may share and one may have alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Shared by readers; alone for what no reader may see. Who waits to have it alone goes before new sharers.

    Not reentrant: whoever shares it must not ask again.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._sharing = 0
        self._waiting = 0
        self._alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Holds the gate together with others."""
        with self._changed:
            while self._alone or self._waiting:
                self._changed.wait()
            self._sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharing -= 1
                if not self._sharing:
                    self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the gate when everybody else has left it."""
        self.take_alone()
        try:
            yield
        finally:
            self.leave()

    def take_alone(self) -> None:
        """Waits until everybody else has left, and holds the gate until `leave`."""
        with self._changed:
            self._waiting += 1
            try:
                while self._alone or self._sharing:
                    self._changed.wait()
                self._alone = True
            finally:
                self._waiting -= 1

    def leave(self) -> None:
        """Ends what `take_alone` began."""
        with self._changed:
            self._alone = False
            self._changed.notify_all()
