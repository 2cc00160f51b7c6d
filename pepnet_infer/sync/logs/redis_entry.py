"""A directory as an entry of a Redis stream: small files in the entry itself, others in chunks under keys of their own.

The fields of an entry: `log` (the log's id), `kind`, `upload` (what the keys of its chunks begin with), `index`, a JSON
list of [name, bytes, first chunk, chunks] by file, and `fN` with what the file at N of the index holds, where it has no
chunks.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.storage.atomic import new_directory
from pepnet_infer.storage.document import MAX_BYTES, open_regular, parse_document, typed
from pepnet_infer.storage.listing import check_files, plain
from pepnet_infer.sync.delta import MANIFEST
from pepnet_infer.sync.entry_faults import reading
from pepnet_infer.sync.logs.transport import Kind

CHUNK = 4 << 20
_UPLOAD = re.compile(r"[0-9a-f]{1,64}")
#: Bytes of one file, and of all files, that are put into an entry itself: many entries are read at once.
_INLINE, _INLINE_ALL = 64 << 10, 256 << 10
_MOST_FIELDS = 2000  # Lua takes no more than 8000 arguments
#: No delta has so many files; larger ones would not fit the limits of Redis on one command.
_MOST_FILES = 100_000
#: Bytes of an entry in the stream at most: it is read into memory before anything is known of it.
MOST_BYTES: dict[Kind, int] = {"delta": 4 << 20, "bundle": 64 << 20}


class PackedEntry(NamedTuple):
    """What is to be put into the stream, once all chunks are there."""

    fields: list[bytes | str]  #: name, value, name, value
    manifest_hash: str
    chunks: int


def pack(root: Path, kind: Kind, upload: str, put: Callable[[int, bytes], None]) -> PackedEntry:
    """Reads a delta or bundle, as its manifest lists it, and hands on the chunks, by number.

    Raises UpdateError "files" when it is not what the manifest says, as far as sizes and hashes tell.
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
        index: list[tuple[str, int, int, int]] = []
        fields: list[bytes | str] = ["kind", kind, "upload", upload]
        chunks = inline = 0
        for number, (name, (size, expected)) in enumerate(found.items()):
            digest, first, begin = hashlib.sha256(), chunks, 0
            with open_regular(root / name) as file:
                short = size <= _INLINE and inline + size <= _INLINE_ALL and len(fields) < _MOST_FIELDS
                for part in _parts(file.read, size):
                    digest.update(part)
                    begin += len(part)
                    if short:
                        fields += [f"f{number}", part]
                        inline += size
                    else:
                        put(chunks, part)
                        chunks += 1
                if begin != size or file.read(1) or digest.hexdigest() != expected:
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
    return PackedEntry(fields, found[MANIFEST][1], chunks)


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


def _index(where: str, fields: Mapping[bytes, bytes]) -> tuple[str, list[tuple[str, int, int, int]]]:
    """Returns the upload, and of each file its name, bytes, first chunk and number of chunks.

    Every chunk is that of one file, as `pack` numbers them: an entry takes no more than there is in Redis.
    """
    if b"upload" not in fields or b"index" not in fields:
        raise UpdateError("foreign", f"{where}: expected an entry with its files, got one without")
    upload = fields[b"upload"].decode("ascii")
    if _UPLOAD.fullmatch(upload) is None:
        raise UpdateError("foreign", f"{where}: upload: expected hex digits, got {upload!r:.100}")
    index, chunks, names = json.loads(fields[b"index"], parse_constant=_no_constant), 0, set()
    if not isinstance(index, list) or len(index) > _MOST_FILES:
        raise UpdateError("files", f"{where}: expected an entry with its files, got another index")
    for entry in index:
        if not isinstance(entry, list) or [type(one) for one in entry] != [str, int, int, int]:
            raise UpdateError("files", f"{where}: expected an entry with its files, got {str(entry)[:100]!r}")
        name, size, first, count = entry
        if name in names:
            raise UpdateError("files", f"{where}: expected each file once, got some twice")
        names.add(name)
        if not plain(name):
            raise UpdateError("path", f"{where}: files: {name!r:.200}: expected a plain path inside the entry")
        if not 0 <= size < 1 << 63 or count not in (0, -(-size // CHUNK)) or (count and first != chunks):
            raise UpdateError("files", f"{where}: {name!r:.200}: expected the chunks of a file, got {entry[1:]!s:.100}")
        chunks += count
    return upload, [tuple(entry) for entry in index]


def _write(where: str, name: str, file: BinaryIO, part: bytes, size: int) -> None:
    if len(part) != size:
        raise UpdateError("files", f"{where}: {name!r:.200}: expected {size} bytes, got {len(part)}")
    file.write(part)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


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


def _parts(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    left = size
    while left > 0:
        part = read(min(CHUNK, left))
        if not part:
            return
        left -= len(part)
        yield part
