"""A delta or bundle in a Redis stream: an entry of a few fields, and its files in chunks under keys of their own.

    log, kind, model_version   the log's id; delta or bundle; the version that it leads to
    upload, chunks             what the keys of its chunks begin with; their number
    manifest, manifest_bytes   SHA-256 and size of manifest.json
    head                       of a delta: its `DeltaHead` as JSON

The chunks hold manifest.json, then the files that it lists in that order, one after another.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.storage.atomic import new_directory
from pepnet_infer.storage.document import MAX_BYTES, open_regular, parse_document, typed
from pepnet_infer.storage.listing import FileEntry, check_files, plain
from pepnet_infer.sync.delta import MANIFEST, DeltaHead, check_head
from pepnet_infer.sync.entry_faults import reading
from pepnet_infer.sync.logs.transport import Kind, Position
from pepnet_infer.validation import convert

CHUNK = 4 << 20
#: Bytes of an entry in the stream at most: those of a publisher have some hundred.
MOST_BYTES = 64 << 10
#: After this one a stream has none.
LAST_ID = f"{2**64 - 1}-{2**64 - 1}"
_UPLOAD = re.compile(r"[0-9a-f]{1,64}")
_POSITION = re.compile(r"([0-9]{20})-([0-9]{20})")
_STREAM_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")


class StreamEntry(NamedTuple):
    """An entry of the stream, as the script READ returns it."""

    stream_id: str
    size: int  # bytes
    fields: Mapping[bytes, bytes]  # empty where there are too many bytes

    @property
    def position(self) -> Position:
        """Where it stands."""
        return position_of(self.stream_id)

    def head(self) -> DeltaHead | None:
        """Returns what a delta says of itself; None for what is no delta."""
        try:
            head = msgspec.json.decode(self.fields.get(b"head", b""), type=DeltaHead)
            check_head(self.stream_id, head)
        except (msgspec.MsgspecError, ValueError, RecursionError, UpdateError):
            return None
        return head if self.fields.get(b"kind") == b"delta" else None

    def bundle_version(self) -> int:
        """Returns the model version of a bundle, -1 for what is none."""
        text = self.fields.get(b"model_version", b"") if self.fields.get(b"kind") == b"bundle" else b""
        return int(text) if re.fullmatch(rb"[0-9]{1,19}", text) and int(text) < 1 << 63 else -1


def pack(root: Path) -> tuple[bytes, Iterator[bytes]]:
    """Returns the manifest of a delta or bundle, and all that its chunks are to hold.

    Reading them raises UpdateError "files" when a file is not what the manifest says, by its size and hash.
    """
    try:
        with open_regular(root / MANIFEST) as file:
            manifest = file.read(MAX_BYTES + 1)
        listing = typed(str(root / MANIFEST), parse_document(str(root / MANIFEST), manifest), "files", dict)
        check_files(root, listing, MANIFEST, hashes=False)
    except BundleError as error:
        raise UpdateError.of(error, reason="files") from error
    except OSError as error:
        raise UpdateError("files", f"{root}: cannot be read: {error}") from error
    return manifest, _chunks(manifest, (part for name, entry in listing.items() for part in _read(root / name, entry)))


def _chunks(manifest: bytes, parts: Iterator[bytes]) -> Iterator[bytes]:
    chunk = bytearray(manifest)
    for part in parts:
        chunk += part
        while len(chunk) >= CHUNK:
            yield bytes(chunk[:CHUNK])
            del chunk[:CHUNK]
    if chunk:
        yield bytes(chunk)


def _read(path: Path, entry: Mapping[str, str | int]) -> Iterator[bytes]:
    digest, left = hashlib.sha256(), int(entry["bytes"])
    try:
        with open_regular(path) as file:
            while left >= 0 and (part := file.read(CHUNK)):
                left -= len(part)
                digest.update(part)
                yield part
    except (BundleError, OSError) as error:
        raise UpdateError("files", f"{path}: cannot be read: {error}") from error
    if left != 0 or digest.hexdigest() != entry["sha256"]:
        raise UpdateError("files", f"{path}: expected {entry['bytes']} bytes of sha256 {entry['sha256']}, got others")


def unpack(entry: StreamEntry, log: str, kind: Kind, target: Path, get: Callable[[str, int], bytes | None]) -> None:
    """Writes an entry to the new directory `target`, whole or not at all; `get` finds a chunk of an upload.

    Raises UpdateError "size" for one that is too large, "foreign" for one that is none of this log and kind, "path" for
    a name that would lead out of the directory, "files" for chunks that are not there or hold something else, and
    BundleError when it cannot be written.
    """
    where, fields = f"{entry.stream_id} in the log", entry.fields
    if not fields:
        raise UpdateError("size", f"{where}: expected at most {MOST_BYTES} bytes, got {entry.size}")
    if (fields.get(b"log"), fields.get(b"kind")) != (log.encode(), kind.encode()):
        raise UpdateError("foreign", f"{where}: expected a {kind} of this log, got another entry")
    with reading(where):
        upload = fields.get(b"upload", b"").decode("ascii")
        if _UPLOAD.fullmatch(upload) is None or not {b"chunks", b"manifest_bytes"} <= fields.keys():
            raise UpdateError("foreign", f"{where}: expected an entry with its files, got upload {upload!r:.100}")
        chunks, size = int(fields[b"chunks"]), int(fields[b"manifest_bytes"])
        body = _Body(where, partial(get, upload))
        manifest = b"".join(body.read(min(size, MAX_BYTES + 1)))
        listing: _Listing = convert(where, parse_document(where, manifest), _Listing, partial(UpdateError, "files"))
        total = len(manifest) + sum(listed.bytes for listed in listing.files.values())
        if chunks != -(-total // CHUNK):
            raise UpdateError("files", f"{where}: expected the chunks of {total} bytes, got {chunks}")
    with new_directory(target, MANIFEST) as root:
        (root / MANIFEST).write_bytes(manifest)
        for name, listed in listing.files.items():
            if name == MANIFEST or not plain(name):
                raise UpdateError("path", f"{where}: files: {name!r:.200}: expected a plain path inside the entry")
            with _new_file(where, root / name) as file:
                file.writelines(body.read(listed.bytes))


class _Listing(msgspec.Struct):
    """What a manifest says of its files."""

    files: dict[str, FileEntry]


class _Body:
    """What the chunks of an upload hold, one after another."""

    def __init__(self, where: str, get: Callable[[int], bytes | None]) -> None:
        self._where, self._get = where, get
        self._next, self._rest = 0, memoryview(b"")

    def read(self, size: int) -> Iterator[memoryview]:
        """Yields the next `size` bytes in parts."""
        while size > 0:
            if not self._rest:
                chunk = self._get(self._next)
                if chunk is None:
                    raise UpdateError("files", f"{self._where}: expected chunk {self._next}, got none")
                self._next, self._rest = self._next + 1, memoryview(chunk)
            part, self._rest = self._rest[:size], self._rest[size:]
            size -= len(part)
            yield part


def _new_file(where: str, path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "xb")
    except (FileExistsError, NotADirectoryError, UnicodeEncodeError) as error:
        raise UpdateError("path", f"{where}: expected names of files, got: {error}") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UpdateError("path", f"{where}: expected names of files, got: {error.strerror}") from error
        raise


def position_of(stream_id: str) -> Position:
    """Returns a stream id, or a position, as a position; "" for anything else."""
    parts = _STREAM_ID.fullmatch(stream_id)
    if parts is None or max(map(int, parts.groups())) >= 1 << 64:
        return ""
    return f"{int(parts[1]):020d}-{int(parts[2]):020d}"


def stream_id_of(position: Position) -> str:
    """Returns a position as a stream id. Raises UpdateError for one of another log."""
    if not position:
        return "0-0"
    parts = _POSITION.fullmatch(position)
    if parts is None:
        raise UpdateError("log", f"position: expected one of a log in Redis, got {position[:80]!r}")
    return f"{int(parts[1])}-{int(parts[2])}"
