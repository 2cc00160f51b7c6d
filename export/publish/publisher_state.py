"""What a publisher must not forget, on the disk: ids that wait, what was pushed when, and scores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from msgspec import Meta, Struct, to_builtins

from pepnet_infer._kernels import FileLock
from pepnet_infer.bundle.bundle import read_tensors
from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.export.publish.id_book import BOOK, NOTED, IdBook
from pepnet_infer.process import forks
from pepnet_infer.quoting import quote
from pepnet_infer.storage.atomic import new_directory
from pepnet_infer.storage.document import read_document, write_document
from pepnet_infer.storage.listing import check_files, describe_files
from pepnet_infer.storage.tensorfile import Array, write_tensors
from pepnet_infer.sync.delta import DeltaHead, check_head
from pepnet_infer.validation import Count, Version, convert, untrusted

_DOCUMENT = "publisher.json"
_INTENT = "intent"


class Intent(NamedTuple):
    """A delta that was about to be appended. Whether it was, the log tells."""

    head: DeltaHead
    noted: Mapping[str, dict[str, Array]]  # by table, of `Selection.noted`


class _Document(Struct, frozen=True, forbid_unknown_fields=True):
    """`publisher.json`."""

    format_version: Annotated[int, Meta(ge=1, le=1)]
    schema_hash: str
    model_version: Version
    passes: Count
    intent: DeltaHead | None
    files: dict[str, Any]


class SavedState(NamedTuple):
    """What was on the disk."""

    model_version: int
    passes: int
    intent: Intent | None


#: Locks that this process has, by path: a lock goes with the process, however it ends, and no forked child has it.
_LOCKS: dict[str, FileLock] = {}
forks.register(forks.Stage.LEAVES, child=_LOCKS.clear)


class State:
    """A directory that is written whole; beside it is where deltas are made. Of one process at a time."""

    def __init__(self, path: Path) -> None:
        """Raises UpdateError when another process has it."""
        self.path = path
        name = os.path.abspath(path.with_name(f"{path.name}.lock"))
        if name in _LOCKS:
            return
        lock = FileLock(name, os.O_RDWR | os.O_CREAT, wait=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.__enter__()
        except BlockingIOError as error:
            got = "one with another publisher"
            raise UpdateError("state", f"{path}: expected a state that no other process uses, got {got}") from error
        except OSError as error:
            raise UpdateError("state", f"{name}: cannot be locked: {error}") from error
        _LOCKS[name] = lock

    def staging(self, version: int) -> Path:
        """Returns where a delta is made; what a killed publisher left there goes."""
        folder = self.path.with_name(f"{self.path.name}.making")
        shutil.rmtree(folder, ignore_errors=True)
        return folder / str(version)

    def save(
        self, schema_hash: str, model_version: int, passes: int, intent: Intent | None, books: Mapping[str, IdBook]
    ) -> None:
        """Writes everything, whole or not at all. Raises UpdateError when it cannot be written."""
        with (
            UpdateError.in_place_of(BundleError, reason="state"),
            new_directory(self.path, _DOCUMENT, overwrite=True) as root,
        ):
            for name, book in books.items():
                write_tensors(root / f"{name}.safetensors", book.to_tensors())
            if intent is not None:
                (root / _INTENT).mkdir()
                for name, noted in intent.noted.items():
                    write_tensors(root / _INTENT / f"{name}.safetensors", noted)
            head = None if intent is None else intent.head
            document = _Document(1, schema_hash, model_version, passes, head, describe_files(root))
            write_document(root / _DOCUMENT, to_builtins(document))

    def load(self, schema_hash: str, books: Mapping[str, IdBook]) -> SavedState | None:
        """Fills the books from what was saved; None where nothing was. Raises UpdateError for what is damaged."""
        if not self.path.exists():
            return None
        where = str(self.path / _DOCUMENT)
        try:
            with untrusted(where, BundleError):
                return self._load(where, schema_hash, books)
        except (BundleError, UpdateError, OSError) as error:
            if isinstance(error, UpdateError) and error.reason == "schema":
                raise
            raise UpdateError("state", f"{where}: expected a publisher's state, got: {error}") from error

    def _load(self, where: str, schema_hash: str, books: Mapping[str, IdBook]) -> SavedState:
        data = read_document(self.path, _DOCUMENT)
        document: _Document = convert(where, data, _Document, BundleError)
        if document.schema_hash != schema_hash:
            raise UpdateError("schema", f"{where}: schema_hash: expected {schema_hash}, got {document.schema_hash}")
        check_files(self.path, document.files, _DOCUMENT, hashes=True)
        tensors = {name: _read(self.path / f"{name}.safetensors", BOOK, ("key", *BOOK)) for name in books}
        intent = None
        if document.intent is not None:
            check_head(where, document.intent)
            folder = self.path / _INTENT
            noted = {name: _read(folder / f"{name}.safetensors", NOTED, ("keys", "expires")) for name in books}
            intent = Intent(document.intent, noted)
        for name, book in books.items():  # when all is known to be right
            book.from_tensors(tensors[name])
        return SavedState(document.model_version, document.passes, intent)


def _read(path: Path, layout: Mapping[str, np.dtype[Any]], alike: Sequence[str]) -> dict[str, Array]:
    """Returns the tensors of a file, which are those of `layout`. alike: of one length; the first has each id once."""
    tensors = read_tensors(path)
    if tensors.keys() != layout.keys():
        raise BundleError(f"{path}: expected tensors {', '.join(layout)}, got {quote(sorted(tensors))}")
    for name, dtype in layout.items():
        found = tensors[name]
        if found.dtype != dtype or found.ndim != 1 or (name in alike and len(found) != len(tensors[alike[0]])):
            wanted = f"{dtype} [{len(tensors[alike[0]]) if name in alike else 'N'}]"
            raise BundleError(f"{path}: {name}: expected {wanted}, got {found.dtype} {list(found.shape)}")
    if len(np.unique(tensors[alike[0]])) != len(tensors[alike[0]]):
        raise BundleError(f"{path}: {alike[0]}: expected each id once, got one that comes twice")
    return tensors
