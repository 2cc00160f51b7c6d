"""What is wrong with an entry of a log, told apart from a log, a disk or a machine that cannot be used right now.

Everything that reads an entry does so inside `reading`: whatever an entry holds, and whatever that leads to, comes out
as an UpdateError, so that a follower can refuse the entry and go on to what comes after it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pepnet_infer.errors import PepnetError, UpdateError

#: The log as a whole cannot be used: what was asked of it is asked again, for as long as that takes.
OUT_OF_REACH = frozenset({"transport", "missing"})
#: An entry cannot be read now, for a reason that may pass: it is tried again, but not for ever.
MAY_PASS = frozenset({"unreadable", "memory"})

#: Of a disk, a network or a process at its limit. All others say that the entry is not what it should be.
_PASSING = frozenset(
    {errno.EIO, errno.EREMOTEIO, errno.ENODEV, errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.EPIPE}
    | {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
    | {errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN}
    | {errno.EHOSTUNREACH, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED}
)


@contextlib.contextmanager
def reading(where: object) -> Iterator[None]:
    """Turns whatever an entry at `where` leads to into an UpdateError.

    One that the code inside raises stays as it is, unless an error of the disk or the machine was its cause: then, and
    for any other such error, the reason is one of `MAY_PASS`. An error that nobody expected has the reason "malformed".
    """
    try:
        yield
    except UpdateError as error:
        if error.reason not in OUT_OF_REACH | MAY_PASS and (cause := passing(error)) is not None:
            raise UpdateError.of(error, reason="unreadable") from cause
        raise
    except MemoryError as error:
        raise UpdateError("memory", f"{where}: expected memory to read it, got none") from error
    except (OSError, PepnetError) as error:
        reason = "unreadable" if passing(error) is not None else "files"
        if isinstance(error, PepnetError):
            raise UpdateError.of(error, reason=reason) from error
        raise UpdateError(reason, f"{where}: expected files that can be read, got: {error!s:.200}") from error
    except Exception as error:  # the boundary: content from outside may lead to anything
        got = f"{type(error).__name__}: {error!s:.200}"
        raise UpdateError("malformed", f"{where}: expected an entry, got content that leads to {got}") from error


def refusal(where: object, error: Exception, reason: str) -> UpdateError:
    """Returns an error, of whatever putting an entry in place led to, as what the entry is refused for.

    reason: of errors of this package that have none.
    """
    if isinstance(error, UpdateError):
        return error
    if isinstance(error, PepnetError):
        return UpdateError.of(error, reason=reason, within=where)
    return UpdateError("internal", f"{where}: expected to apply it, got {type(error).__name__}: {error}")


def bundle_refusal(where: object, error: Exception) -> UpdateError:
    """Returns the same for a bundle: what lies in its files is told apart from damage to a delta by its reason."""
    if isinstance(error, MemoryError | OSError):
        return UpdateError("bundle", f"{where}: {error}")
    if isinstance(error, UpdateError) and error.reason == "files":
        return UpdateError.of(error, reason="bundle", within=where)
    return refusal(where, error, "bundle")


def passing(error: BaseException) -> OSError | None:
    """Returns the error of the operating system behind `error`, if it is one that may pass."""
    cause: BaseException | None = error
    for _ in range(16):
        if cause is None:
            return None
        if isinstance(cause, OSError) and cause.errno in _PASSING:
            return cause
        cause = cause.__cause__
    return None


def not_a_directory(path: Path) -> UpdateError | None:
    """Returns what is wrong where an entry should stand, if that is no directory. One that has gone is as it was."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return None  # who reads it is told
    if stat.S_ISDIR(mode):
        return None
    got = "a symbolic link" if stat.S_ISLNK(mode) else "a file" if stat.S_ISREG(mode) else "a special file"
    return UpdateError("foreign", f"{path}: expected a directory, got {got}")
