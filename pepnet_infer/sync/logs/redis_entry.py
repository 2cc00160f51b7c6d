"""A directory as an entry of a Redis stream: small files in the entry itself, others in chunks under keys of their own.

A publisher packs it; readers unpack it into a spool on their machine, once, and remove it when it was trimmed.

The fields of an entry: `log` (the log's id), `kind`, `upload` (what the keys of its chunks begin with), `index`, a JSON
list of [name, bytes, first chunk, chunks] by file, and `fN` with what the file at N of the index holds, where it has no
chunks.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.storage.atomic import new_directory
from pepnet_infer.storage.document import MAX_BYTES, no_constant, open_regular, parse_document, typed
from pepnet_infer.storage.listing import check_files, plain
from pepnet_infer.sync.delta import MANIFEST
from pepnet_infer.sync.entry_faults import OUT_OF_REACH, reading
from pepnet_infer.sync.logs.transport import FOLDERS, Entry, Kind, Position
from pepnet_infer.validation import convert

CHUNK = 4 << 20
LOG_ID = re.compile(r"[0-9a-f]{32}")  # what is a log's id
_STAGING = re.compile(r"\.([0-9]{20}-[0-9]{20})\.tmp-.*")
_UPLOAD = re.compile(r"[0-9a-f]{1,64}")
#: Bytes of one file, and of all files, that are put into an entry itself: many entries are read at once.
_INLINE, _INLINE_ALL = 64 << 10, 256 << 10
_MOST_FIELDS = 2000  # Lua takes no more than 8000 arguments
#: No delta has so many files; larger ones would not fit the limits of Redis on one command.
_MOST_FILES = 100_000
_File = tuple[str, int, int, int]  # name, bytes, first chunk, chunks
#: Bytes of an entry in the stream at most: it is read into memory before anything is known of it.
MOST_BYTES: dict[Kind, int] = {"delta": 4 << 20, "bundle": 64 << 20}


def blob(prefix: str, upload: str, number: int | str = "") -> str:
    """Returns the key of a chunk, or what the keys of an upload's chunks begin with. `prefix`: of a log's keys."""
    return f"{prefix}blob:{upload}:{number}"


def pack(root: Path, kind: Kind, upload: str, put: Callable[[int, bytes], None]) -> tuple[list[bytes | str], str, int]:
    """Reads a delta or bundle, as its manifest lists it, and hands on the chunks, by number.

    Returns what is to be put into the stream once all chunks are there (name, value, name, value), the manifest's hash
    and the number of chunks. Raises UpdateError "files" when it is not what the manifest says, as far as sizes and
    hashes tell.
    """
    try:
        with open_regular(root / MANIFEST) as file:
            manifest = file.read(MAX_BYTES + 1)
        document = parse_document(str(root / MANIFEST), manifest)
        listing = typed(str(root / MANIFEST), document, "files", dict)
        check_files(root, listing, MANIFEST, hashes=False)
        found = {MANIFEST: (len(manifest), hashlib.sha256(manifest).hexdigest())}
        found |= {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in listing.items()}
        if len(found) > _MOST_FILES:
            raise UpdateError("files", f"{root}: expected at most {_MOST_FILES} files, got {len(found)}")
        index: list[_File] = []
        fields: list[bytes | str] = ["kind", kind, "upload", upload]
        chunks = inline = 0
        for number, (name, (size, expected)) in enumerate(found.items()):
            digest, first, read = hashlib.sha256(), chunks, 0
            with open_regular(root / name) as file:
                short = size <= _INLINE and inline + size <= _INLINE_ALL and len(fields) < _MOST_FIELDS
                while read <= size and (part := file.read(CHUNK)):
                    digest.update(part)
                    read += len(part)
                    if short:
                        fields += [f"f{number}", part]
                        inline += size
                    else:
                        put(chunks, part)
                        chunks += 1
                if read != size or digest.hexdigest() != expected:
                    raise BundleError(f"{root / name}: expected {size} bytes of sha256 {expected}, got others")
            index.append((name, size, first, chunks - first))
    except BundleError as error:
        raise UpdateError.of(error, reason="files") from error
    except OSError as error:
        raise UpdateError("files", f"{root}: cannot be read: {error}") from error
    fields += ["index", json.dumps(index)]
    size = sum(map(len, fields)) + 100
    if size > MOST_BYTES[kind]:
        raise UpdateError("files", f"{root}: expected fewer files: its entry would take {size} bytes")
    return fields, found[MANIFEST][1], chunks


def unpack(fields: Mapping[bytes, bytes], target: Path, get: Callable[[str, int], bytes | None]) -> None:
    """Writes an entry to the new directory `target`, whole or not at all; `get` finds a chunk of an upload.

    Raises UpdateError "path" for a name that would lead out of the directory, "foreign" for an entry that is none of
    ours, "files" for one that lacks a chunk or has others, "malformed" for whatever else it holds, and BundleError when
    it cannot be written.
    """
    where = f"{target.name} in the log"
    with reading(where):
        upload, index = _index(where, fields)
    with new_directory(target, MANIFEST) as root:
        for number, (name, size, first, count) in enumerate(index):
            with _new_file(where, root / name) as file:
                if count == 0:
                    _write(where, name, file, fields.get(b"f%d" % number, b""), size)
                for chunk in range(count):
                    part = get(upload, first + chunk)
                    if part is None:
                        raise UpdateError("files", f"{where}: {name}: expected chunk {first + chunk}, got none")
                    _write(where, name, file, part, min(CHUNK, size - chunk * CHUNK))


def _index(where: str, fields: Mapping[bytes, bytes]) -> tuple[str, list[_File]]:
    """Returns the upload, and of each file its name, bytes, first chunk and number of chunks.

    Every chunk is that of one file, as `pack` numbers them: an entry takes no more than there is in Redis.
    """
    if b"upload" not in fields or b"index" not in fields:
        raise UpdateError("foreign", f"{where}: expected an entry with its files, got one without")
    upload = fields[b"upload"].decode("ascii")
    if _UPLOAD.fullmatch(upload) is None:
        raise UpdateError("foreign", f"{where}: upload: expected hex digits, got {upload!r:.100}")
    said = json.loads(fields[b"index"], parse_constant=no_constant)
    refused = partial(UpdateError, "files")
    if isinstance(said, list) and len(said) > _MOST_FILES:  # before anything is made of them
        raise refused(f"{where}: index: expected at most {_MOST_FILES} files, got {len(said)}")
    index: list[_File] = convert(where, said, list[_File], refused, "index")
    chunks, names = 0, set()
    for name, size, first, count in index:
        if name in names:
            raise UpdateError("files", f"{where}: expected each file once, got some twice")
        names.add(name)
        if not plain(name):
            raise UpdateError("path", f"{where}: files: {name!r:.200}: expected a plain path inside the entry")
        if not 0 <= size < 1 << 63 or count not in (0, -(-size // CHUNK)) or (count and first != chunks):
            got = f"{size} bytes in {count} from {first}"
            raise UpdateError("files", f"{where}: {name!r:.200}: expected the chunks of a file, got {got}")
        chunks += count
    return upload, index


def _write(where: str, name: str, file: BinaryIO, part: bytes, size: int) -> None:
    if len(part) != size:
        raise UpdateError("files", f"{where}: {name!r:.200}: expected {size} bytes, got {len(part)}")
    file.write(part)


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
        """Returns an entry, written now if it is not there; see `unpack`.

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
