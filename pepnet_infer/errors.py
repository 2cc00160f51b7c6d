"""The error tree. Every message says what was expected, what came, and where."""

from __future__ import annotations

from pepnet_infer.quoting import MOST_MESSAGE, clip


class PepnetError(Exception):
    """Base of every error this package raises on purpose. All of them pickle and copy with their attributes.

    A message is one line of at most `quoting.MOST_MESSAGE` characters that all print, whatever it repeats.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(clip(message, MOST_MESSAGE))

    def __reduce__(self) -> tuple[object, ...]:
        # An exception is unpickled by calling its class with `args`, which are those of `Exception.__init__` and not
        # of a subclass with arguments of its own: that raises in whoever unpickles, where a pool of processes then
        # waits for ever.
        return _restored, (type(self), self.args), self.__dict__


class SchemaError(PepnetError, ValueError):
    """A column, a value or a schema does not fit what the model was built for. It is a ValueError too.

    `column` and `row` (counted from 0 within the batch) are set where the fault has a place, so that a caller who
    reads a file in batches can say where in the file it is.
    """

    def __init__(self, message: str, column: str | None = None, row: int | None = None) -> None:
        super().__init__(message)
        self.column = column
        self.row = row


class BundleError(PepnetError):
    """A bundle or checkpoint is missing, damaged, newer than this code, or failed parity."""


class BackendError(PepnetError):
    """A backend, device, precision or instruction set was asked for that is not there."""


class StoreError(PepnetError):
    """The store that holds the embedding rows cannot answer."""


class UpdateError(PepnetError):
    """An update to rows or weights was refused. `reason` is one word, to count by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ConfigError(PepnetError, ValueError):
    """An option has a value that it cannot have. Raised by every part alike, whichever reads the option."""


def _restored(kind: type[PepnetError], args: tuple[object, ...]) -> PepnetError:
    return kind.__new__(kind, *args)
