"""A directory as an entry of a Redis stream: small files in the entry itself, others in chunks under keys of their own.

The fields of an entry: `log` (the log's id), `kind`, `upload` (what the keys of its chunks begin with), `index`, a JSON
list of [name, bytes, first chunk, chunks] by file, and `fN` with what the file at N of the index holds, where it has no
chunks.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.files import new_directory
from pepnet_infer.listing import check_files, plain
from pepnet_infer.storage.document import open_regular, read_document, typed
from pepnet_infer.sync.delta import MANIFEST
from pepnet_infer.sync.transport import Kind

CHUNK = 4 << 20
#: Bytes of one file, and of all files, that are put into an entry itself: many entries are read at once.
_INLINE, _INLINE_ALL = 64 << 10, 256 << 10
_MOST_FIELDS = 2000  # Lua takes no more than 8000 arguments
#: No delta has so many files; larger ones would not fit the limits of Redis on one command.
_MOST_FILES = 100_000


class Packed(NamedTuple):
    """What is to be put into the stream, once all chunks are there."""

    fields: list[bytes | str]  #: name, value, name, value
    manifest_hash: str
    chunks: int


def pack(root: Path, kind: Kind, upload: str, put: Callable[[int, bytes], None]) -> Packed:
    """Reads a delta or bundle, as its manifest lists it, and hands on the chunks, by number.

    Raises UpdateError "files" when it is not what the manifest says, as far as sizes and hashes tell.
    """
    try:
        with open_regular(root / MANIFEST) as file:
            manifest = file.read()
        document = read_document(root, MANIFEST)
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
        raise UpdateError("files", str(error)) from error
    except OSError as error:
        raise UpdateError("files", f"{root}: cannot be read: {error}") from error
    fields += ["index", json.dumps(index)]
    return Packed(fields, found[MANIFEST][1], chunks)


def unpack(fields: Mapping[bytes, bytes], target: Path, get: Callable[[str, int], bytes | None]) -> None:
    """Writes an entry to the new directory `target`, whole or not at all; `get` finds a chunk of an upload.

    Raises UpdateError "path" for a name that would lead out of the directory, "files" for an entry that is not one or
    lacks a chunk, and BundleError when it cannot be written.
    """
    where = f"{target.name} in the log"
    try:
        upload = fields[b"upload"].decode("ascii")
        index = [(str(n), int(b), int(f), int(c)) for n, b, f, c in json.loads(fields[b"index"])]
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise UpdateError("files", f"{where}: expected an entry with its files, got: {error!r:.200}") from error
    names = [name for name, *_ in index]
    if len(set(names)) != len(names):
        raise UpdateError("files", f"{where}: expected each file once, got some twice")
    for name in names:
        if not plain(name):
            raise UpdateError("path", f"{where}: files: {name!r:.200}: expected a plain path inside the entry")
    with new_directory(target, MANIFEST) as root:
        for number, (name, size, first, count) in enumerate(index):
            written = 0
            with _new_file(where, root / name) as file:
                for chunk in range(first, first + count):
                    part = get(upload, chunk)
                    if part is None:
                        raise UpdateError("files", f"{where}: {name}: expected chunk {chunk}, got none")
                    written += file.write(part)
                if count == 0:
                    written += file.write(fields.get(b"f%d" % number, b""))
            if written != size:
                raise UpdateError("files", f"{where}: {name}: expected {size} bytes, got {written}")


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
