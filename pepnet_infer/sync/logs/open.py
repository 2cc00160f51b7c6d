"""A log by its name, as commands take it."""

from __future__ import annotations

import atexit
import shutil
import tempfile

from pepnet_infer.errors import UpdateError
from pepnet_infer.sync.logs.directory import DirectoryLog
from pepnet_infer.sync.logs.transport import Transport


def open_transport(name: str) -> Transport:
    """Returns the log in a folder, or at redis://… or rediss://…. It need not be there: who reads it is told.

    Entries of a Redis log are put down in a temporary folder that goes when the process ends. Raises UpdateError for
    any other scheme.
    """
    scheme, separator, _ = name.partition("://")
    if not separator:
        return DirectoryLog(name, create=False)
    if scheme not in ("redis", "rediss"):
        raise UpdateError("transport", f"log: expected a folder, redis:// or rediss://, got {name!r}")
    from pepnet_infer.sync.logs.redis import RedisLog

    spool = tempfile.mkdtemp(prefix="pepnet-log-")
    atexit.register(shutil.rmtree, spool, ignore_errors=True)
    return RedisLog(name, spool=spool)
