"""What a publisher must not forget, on the disk: ids that wait, what was pushed when, and scores."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pepnet_infer import forks
from pepnet_infer.bundle import read_tensors
from pepnet_infer.checked import untrusted
from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.export.id_book import IdBook
from pepnet_infer.listing import check_files, describe_files
from pepnet_infer.storage.atomic import new_directory
from pepnet_infer.storage.document import read_document, typed, write_document
from pepnet_infer.sync.delta import DeltaHead, check_head
from pepnet_infer.tensorfile import Array, write_tensors

_DOCUMENT = "publisher.json"
_INTENT = "intent"


class Intent(NamedTuple):
    """A delta that was about to be appended. Whether it was, the log tells."""

    head: DeltaHead
    noted: Mapping[str, dict[str, Array]]  # by table, of `Chosen.noted`


@dataclass(frozen=True)
class Saved:
    """What was on the disk."""

    model_version: int
    passes: int
    intent: Intent | None


#: Files that this process has locked, by path: a lock goes with the process, however it ends.
_LOCKS: dict[str, int] = {}


class State:
    """A directory that is written whole; beside it is where deltas are made. Of one process at a time."""

    def __init__(self, path: Path) -> None:
        """Raises UpdateError when another process has it."""
        self.path = path
        self._lock()

    def _lock(self) -> None:
        lock = os.path.abspath(self.path.with_name(f"{self.path.name}.lock"))
        if lock in _LOCKS:
            return
        handle = -1
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if handle >= 0:
                os.close(handle)
            if isinstance(error, BlockingIOError | PermissionError) and handle >= 0:
                raise UpdateError(
                    "state", f"{self.path}: expected a state that no other process uses, got one with another publisher"
                ) from error
            raise UpdateError("state", f"{lock}: cannot be locked: {error}") from error
        _LOCKS[lock] = handle

    def staging(self, version: int) -> Path:
        """Returns where a delta is made; what a killed publisher left there goes."""
        folder = self.path.with_name(f"{self.path.name}.making")
        shutil.rmtree(folder, ignore_errors=True)
        return folder / str(version)

    def save(
        self, schema_hash: str, model_version: int, passes: int, intent: Intent | None, books: Mapping[str, IdBook]
    ) -> None:
        """Writes everything, whole or not at all. Raises UpdateError when it cannot be written."""
        try:
            with new_directory(self.path, _DOCUMENT, overwrite=True) as root:
                for name, book in books.items():
                    write_tensors(root / f"{name}.safetensors", book.to_tensors())
                if intent is not None:
                    (root / _INTENT).mkdir()
                    for name, noted in intent.noted.items():
                        write_tensors(root / _INTENT / f"{name}.safetensors", noted)
                write_document(
                    root / _DOCUMENT,
                    {
                        "format_version": 1,
                        "schema_hash": schema_hash,
                        "model_version": model_version,
                        "passes": passes,
                        "intent": None if intent is None else vars(intent.head),
                        "files": describe_files(root),
                    },
                )
        except BundleError as error:
            raise UpdateError("state", str(error)) from error

    def load(self, schema_hash: str, books: Mapping[str, IdBook]) -> Saved | None:
        """Fills the books from what was saved; None where nothing was. Raises UpdateError for what is damaged."""
        if not self.path.exists():
            return None
        where = str(self.path / _DOCUMENT)
        try:
            return self._load(where, schema_hash, books)
        except (BundleError, UpdateError) as error:
            if isinstance(error, UpdateError) and error.reason == "schema":
                raise
            raise UpdateError("state", f"{where}: expected a publisher's state, got: {error}") from error

    def _load(self, where: str, schema_hash: str, books: Mapping[str, IdBook]) -> Saved:
        with untrusted(where, BundleError):
            document = read_document(self.path, _DOCUMENT)
            recorded = typed(where, document, "schema_hash", str)
            if recorded != schema_hash:
                raise UpdateError("schema", f"{where}: schema_hash: expected {schema_hash}, got {recorded}")
            check_files(self.path, typed(where, document, "files", dict), _DOCUMENT, hashes=True)
            for name, book in books.items():
                book.from_tensors(read_tensors(self.path / f"{name}.safetensors"))
            intent = None
            if document.get("intent") is not None:
                head = DeltaHead(**typed(where, document, "intent", dict))
                check_head(where, head)
                folder = self.path / _INTENT
                intent = Intent(head, {name: read_tensors(folder / f"{name}.safetensors") for name in books})
            return Saved(typed(where, document, "model_version", int), typed(where, document, "passes", int), intent)


def _after_fork() -> None:
    for handle in _LOCKS.values():  # the parent's: a child has none
        os.close(handle)
    _LOCKS.clear()


forks.register(forks.Stage.FILES, child=_after_fork)
