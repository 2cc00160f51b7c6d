"""A lock that many may share and one may have alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from pepnet_infer import _kernels


class Gate:
    """Shared by readers; alone for what no reader may see. Who waits to have it alone goes before new sharers.

    Not reentrant: whoever shares it must not ask again. A share is an object of C++, so that an interrupted reader
    leaves none behind, which would keep `alone` waiting for ever.
    """

    def __init__(self) -> None:
        self._gate = _kernels.Gate()

    def shared(self) -> AbstractContextManager[None]:
        """Holds the gate together with others, until the block is left."""
        return self._gate.shared()

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
        self._gate.take_alone()

    def leave(self) -> None:
        """Ends what `take_alone` began."""
        self._gate.leave()
