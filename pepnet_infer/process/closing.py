"""What a `with` block closes at its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """Base of what has a `close`: a `with` block calls it, whatever happens inside."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of what was opened."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
