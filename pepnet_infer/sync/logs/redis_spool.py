"""Entries of a Redis log as directories on this machine: written once, shared by its readers, removed when trimmed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.sync.entry_faults import OUT_OF_REACH
from pepnet_infer.sync.logs.redis_entry import unpack
from pepnet_infer.sync.logs.transport import FOLDERS, Entry, Kind, Position

#: What is a log's id.
LOG_ID = re.compile(r"[0-9a-f]{32}")
_STAGING = re.compile(r"\.([0-9]{20}-[0-9]{20})\.tmp-.*")


class Spool:
    """`ROOT/LOG_ID/deltas/POSITION` and `.../bundles/POSITION`. Safe from any thread and process.

    A log's id is 32 hex digits, a position two times 20 digits: who asks has looked.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, log: str, kind: Kind, position: Position) -> Path:
        """Returns where an entry is written."""
        return self.root / log / FOLDERS[kind] / position

    def write(
        self,
        log: str,
        kind: Kind,
        position: Position,
        fields: Mapping[bytes, bytes],
        get: Callable[[str, int], bytes | None],
    ) -> Entry:
        """Returns an entry, written now if it is not there; see `redis_entry.unpack`.

        One that is damaged comes with its fault, and nothing of it stays: it is in the log, and must not hold up what
        comes after it. Raises UpdateError "transport" when the spool cannot be written.
        """
        path = self.path(log, kind, position)
        try:
            if not path.is_dir():
                unpack(fields, path, get)
        except BundleError as error:
            if not path.is_dir():  # else another reader was faster
                raise UpdateError("transport", f"spool: {error}") from error
        except OSError as error:
            raise UpdateError("transport", f"spool: {path}: {error}") from error
        except UpdateError as error:
            if error.reason in OUT_OF_REACH:
                raise
            return Entry(position, kind, path, error)
        return Entry(position, kind, path)

    def sweep(self, log: str, deltas: Position, bundles: Position) -> None:
        """Removes other logs, and what was trimmed of this one: deltas and bundles up to these positions."""
        for path in self.root.glob("*"):
            if path.name != log and LOG_ID.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
        for folder, last in (("deltas", deltas), ("bundles", bundles)):
            for path in (self.root / log / folder).glob("*"):
                staging = _STAGING.fullmatch(path.name)
                if (staging.group(1) if staging else path.name) <= last:
                    shutil.rmtree(path, ignore_errors=True)  # what cannot go now goes another time
