"""What a `with` block closes at its end."""

from __future__ import annotations

from typing import Self


class Closing:
    """Base of what has a `close`: a `with` block calls it, whatever happens inside."""

    def close(self) -> None:
        """Lets go of what was opened."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
