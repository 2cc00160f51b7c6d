"""The error classes. An error holds what is wrong, and where, as fields; `str` composes the sentence."""

from __future__ import annotations

import contextlib
import copyreg
import os
from collections.abc import Iterator
from typing import Any, Self, TypedDict, Unpack

from pepnet_infer.quoting import MOST_MESSAGE, clip, quote


class Fields(TypedDict, total=False):
    """What is known of an error beside its message; see `PepnetError`."""

    expected: str | None
    got: str | None
    within: object
    file: str | os.PathLike[str] | None
    column: str | None
    row: int | None
    row_group: int | None
    rows: int | None
    remarks: tuple[str, ...] | None
    cause: str | None


class PepnetError(Exception):
    """Base of every error this package raises on purpose. All of them pickle and copy with their fields.

    What is wrong is `message`, or the pair of `expected` and `got`. The other fields are set where they are known:

    within: what the place is inside of, outermost first: a file, "items", "side table 'video'".
    file: path of the file, which is in `within` as well.
    column, row: the place in a table. Rows count from 0 within the batch, and within `file` where that is a table.
    row_group: the row group of a parquet file with `row`, or the first one with the fault.
    rows: how many rows have the same fault; `row` is the first of them.
    remarks: what else is known of `got`, such as "3 nulls".
    cause: what led to it, said after a semicolon.

    `str` returns one line of at most `quoting.MOST_MESSAGE` characters that all print, whatever the fields hold.
    """

    expected: str | None = None
    got: str | None = None
    within: tuple[str, ...] = ()
    file: str | None = None
    column: str | None = None
    row: int | None = None
    row_group: int | None = None
    rows: int | None = None
    remarks: tuple[str, ...] = ()
    cause: str | None = None

    def __init__(self, message: str = "", **fields: Unpack[Fields]) -> None:
        super().__init__(clip(message, MOST_MESSAGE))
        self._set(fields)

    @classmethod
    def of(cls, error: PepnetError, *, reason: str | None = None, **fields: Unpack[Fields]) -> Self:
        """Returns `error` as one of this class, with what else is known.

        within, file: are put around the places that `error` has. Other fields take the place of its own.
        """
        made = cls.__new__(cls, *error.args)
        vars(made).update(vars(error))
        made._set(fields)
        if reason is not None:
            vars(made)["reason"] = reason
        return made

    @classmethod
    @contextlib.contextmanager
    def in_place_of(
        cls, *kinds: type[Exception], reason: str | None = None, **fields: Unpack[Fields]
    ) -> Iterator[None]:
        """Raises what the code inside raises of these kinds as an error of this class; see `of`."""
        try:
            yield
        except kinds as error:
            known = error if isinstance(error, PepnetError) else PepnetError(str(error))
            raise cls.of(known, reason=reason, **fields) from error

    @property
    def message(self) -> str:
        """What is wrong, without the place."""
        if self.args and self.args[0]:
            return str(self.args[0])
        return "" if self.expected is None else f"expected {self.expected}, got {self.got}"

    def fields(self) -> dict[str, Any]:
        """Returns the fields that are set, by name, as plain JSON values."""
        fields = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    def _set(self, fields: Fields) -> None:
        file, within = fields.pop("file", None), fields.pop("within", None)
        if within is not None:
            self.within = (str(within), *self.within)
        if file is not None:
            path = os.fspath(file)
            self.file, self.within = self.file or path, (path, *self.within)
        vars(self).update((name, value) for name, value in fields.items() if value is not None)

    def __str__(self) -> str:
        parts = list(self.within)
        if self.column is not None:
            parts.append(f"column {quote(self.column)}")
        text = ": ".join([*parts, self.message])
        if self.remarks:
            text += f" ({', '.join(self.remarks)})"
        if self.row is not None:
            text += f" at row {self.row}"
            if self.row_group is not None:
                text += f" (row group {self.row_group})"
        elif self.row_group is not None:
            text += f" at row group {self.row_group}"
        if self.rows is not None and self.rows > 1:
            text += f" (and {self.rows - 1} more)"
        if self.cause is not None:
            text += f"; {self.cause}"
        return clip(text, MOST_MESSAGE)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        # An exception is unpickled by calling its class with `args`, which are those of `Exception.__init__` and not
        # of a subclass with arguments of its own: that raises in whoever unpickles, where a pool of processes then
        # waits for ever.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class SchemaError(PepnetError, ValueError):
    """A column, a value or a schema does not fit what the model was built for. It is a ValueError too."""


class BundleError(PepnetError):
    """A bundle or checkpoint is missing, damaged, newer than this code, or failed parity."""


class BackendError(PepnetError):
    """A backend, device, precision or instruction set was asked for that is not there."""


class StoreError(PepnetError):
    """The store that holds the embedding rows cannot answer."""


class ClosedError(PepnetError):
    """Something was asked of an engine that was closed."""


class UpdateError(PepnetError):
    """An update to rows or weights was refused. `reason` is one word, to count by."""

    reason: str = ""

    def __init__(self, reason: str, message: str = "", **fields: Unpack[Fields]) -> None:
        super().__init__(message, **fields)
        self.reason = reason


class ConfigError(PepnetError, ValueError):
    """An option has a value that it cannot have. Raised by every part alike, whichever reads the option."""


@contextlib.contextmanager
def readable(
    path: str | os.PathLike[str], expected: str = "a readable file", error: type[PepnetError] = PepnetError
) -> Iterator[None]:
    """Raises `error` about the file or folder at `path` for what the system refuses inside."""
    try:
        yield
    except OSError as refused:
        raise error(f"expected {expected}, got: {refused.strerror}", file=path) from refused
