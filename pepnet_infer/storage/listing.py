"""The list of files in a manifest, with sizes and hashes, and the check that a directory has exactly these files."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct

from pepnet_infer.errors import BundleError, readable
from pepnet_infer.quoting import quote
from pepnet_infer.storage.atomic import sha256
from pepnet_infer.storage.document import check_regular, open_regular
from pepnet_infer.validation import Count, convert

#: Files that file systems and file managers create in any folder. They are ignored.
_OF_THE_SYSTEM = re.compile(
    r"lost\+found|\.nfs[0-9A-Fa-f]+|\.fuse_hidden[0-9A-Fa-f]+|\.smbdelete[0-9A-Fa-f]+"
    r"|\.DS_Store|\._.*|\.snapshot|\.Trash-[0-9]+|Thumbs\.db|desktop\.ini",
    re.DOTALL,
)

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_MOST_FOLDERS = 1000  # without a listed file in them
_DEEPEST = 8  # folders above a listed file


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A file of a listing."""

    bytes: Count
    sha256: Sha256


class FileState(NamedTuple):
    """A file, and its content as far as size and time of the last write tell."""

    device: int
    inode: int
    size: int
    modified_ns: int


def read_entry(root: Path, name: str, entry: Mapping[str, Any]) -> bytes:
    """Reads a file that `check_files` has seen, once, and hashes what was read. Raises BundleError.

    What comes back is what the listing says, whatever is done to the directory at that moment.
    """
    path = os.path.join(root, name)
    with readable(path, "a file", BundleError), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(min(entry["bytes"], size) + 1)
    if len(data) != entry["bytes"]:
        raise BundleError(f"expected {entry['bytes']} bytes, got {len(data)} or more", file=path)
    found = hashlib.sha256(data).hexdigest()
    if found != entry["sha256"]:
        raise BundleError(f"expected sha256 {entry['sha256']:.64}, got {found}", file=path)
    return data


def describe_files(root: Path) -> dict[str, dict[str, int | str]]:
    """Returns {name: {bytes, sha256}} of every file below `root`, sorted by name."""
    return {name: {"bytes": size, "sha256": sha256(root / name)} for name, size in sorted(_walk(root).items())}


def file_states(root: Path, names: Iterable[str]) -> dict[str, FileState]:
    """Returns name → which file has it, and which content of that file. Raises BundleError where there is none."""
    states = {}
    for name in names:
        try:
            found = os.stat(os.path.join(root, name), follow_symlinks=False)
        except (OSError, ValueError) as error:
            raise BundleError(f"{root / name!s:.300}: expected a file, got: {error!s:.100}") from error
        states[name] = FileState(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    return states


def check_files(root: Path, listing: Mapping[str, Any], document: str, hashes: bool) -> dict[str, FileState]:
    """Checks that `root` holds `document` and the listed files, whole and unaltered, and nothing else.

    Names are checked before anything is opened: absolute ones, `..` and symlinks are refused, so that nothing outside
    `root` is ever read. What file systems and file managers leave in a folder (`lost+found`, `.nfs…`, `.DS_Store`) is
    passed over. `hashes=False` leaves out the reading of every byte. Returns which files they are, `document` included,
    for `file_states` to tell later whether they still are. Raises BundleError.
    """
    for name, entry in listing.items():
        where = f"{root / document}: files: {quote(name)}"
        if name == document or not plain(name):
            raise BundleError("expected a plain path inside the bundle", within=where)
        convert(where, entry, FileEntry, BundleError)
    try:
        present = _walk(root, len(listing) + 1)
        if len(present) <= len(listing) + 1:  # else not all were looked at
            for name in sorted(set(listing) - set(present)):
                raise BundleError(f"expected a file of {listing[name]['bytes']} bytes, got no file", file=root / name)
        for name in sorted(set(present) - set(listing) - {document}):
            raise BundleError(f"expected only files listed in {document}, got one more", file=root / name)
        for name, entry in listing.items():
            if present[name] != entry["bytes"]:
                raise BundleError(f"expected {entry['bytes']} bytes, got {present[name]}", file=root / name)
        states = file_states(root, [*listing, document])  # before a byte is read
        if hashes:
            for name, entry in listing.items():
                found = sha256(root / name)
                if found != entry["sha256"]:
                    raise BundleError(f"expected sha256 {entry['sha256']}, got {found}", file=root / name)
        return states
    except OSError as error:
        raise BundleError(f"expected a readable file, got: {error.strerror}", file=error.filename) from error


def plain(name: str) -> bool:
    """Whether a name in a listing is a path that stays inside its directory, in folders of which one can be made."""
    if "\0" in name or "\\" in name or name.count("/") > _DEEPEST:
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def _walk(root: Path, most: int | None = None) -> dict[str, int]:
    """Returns how many bytes each file below `root` has, by its path from there.

    most: maximum number of files. The walk stops after one more than that: a wrong folder may have millions.
    """
    found: dict[str, int] = {}
    folders, visited = [""], 0
    while folders:
        inside = folders.pop()
        visited += 1
        with os.scandir(os.path.join(root, inside)) as entries:
            for entry in entries:
                if _OF_THE_SYSTEM.fullmatch(entry.name):
                    continue
                mode, name = entry.stat(follow_symlinks=False), inside + entry.name
                if stat.S_ISDIR(mode.st_mode):
                    folders.append(f"{name}/")
                    if most is not None and visited + len(folders) > most + _MOST_FOLDERS:
                        raise BundleError(f"expected {most} files at most, got folders without end", file=root)
                else:
                    check_regular(entry.path, mode)
                    found[name] = mode.st_size
                    if most is not None and len(found) > most:
                        return found
    return found
