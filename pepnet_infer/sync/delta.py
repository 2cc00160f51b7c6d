"""A delta: the directory that one training pass publishes. Checked whole before any of it is used.

    manifest.json            what it is, and its files with sizes and hashes
    dense.safetensors        all dense weights, where they changed
    dense.onnx               the same weights as a graph, where engines on ONNX Runtime follow
    rows/TABLE.safetensors   the rows of a table that changed

A delta leads from one version of the model, `base_version`, to the next, `model_version`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import index
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import structs

from pepnet_infer.bundle.bundle import DENSE, ONNX, check_dense
from pepnet_infer.bundle.magnitude import check_magnitudes, input_bounds
from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.network.network import Network
from pepnet_infer.process.pace import Rest, no_rest
from pepnet_infer.rows.delta_rows import check_rows, checked, read_rows, write_rows
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.storage.atomic import new_directory
from pepnet_infer.storage.document import read_document, typed, write_document
from pepnet_infer.storage.listing import check_files, describe_files, plain, read_entry
from pepnet_infer.storage.tensorfile import Array, MappedFile, write_tensors
from pepnet_infer.sync.entry_faults import reading
from pepnet_infer.validation import Finite, convert

MANIFEST = "manifest.json"
ROWS = "rows"
_LATEST = 1e12  # seconds, some 30,000 years


class DeltaHead(msgspec.Struct, frozen=True):
    """What a delta says of itself."""

    base_version: int  #: the model version that it is applied to
    model_version: int  #: the one that comes of it
    pass_number: int  #: of the training pass, from 0
    produced_at: float  #: Unix seconds by the producer's clock
    schema_hash: str


class _Manifest(msgspec.Struct, frozen=True):
    """`manifest.json`, but for its files: the format, then a `DeltaHead`. A key more is not another format."""

    format: Literal["pepnet-delta"]
    format_version: Literal[1]
    base_version: int
    model_version: int
    pass_number: int = msgspec.field(name="pass")
    produced_at: Finite
    schema_hash: str


@dataclass(frozen=True)
class Delta:
    """A delta that has passed its checks, read into memory."""

    path: Path
    head: DeltaHead
    dense: Mapping[str, Array] | None  #: all weights by name, or None where they are the base's
    onnx: bytes | None  #: their graph, where there is one
    rows: Mapping[str, RowBatch]  #: by table; tables without a change are left out
    bytes: int  #: of all its files
    digest: str  #: a hash over its versions and the hashes of all its files

    @property
    def expires(self) -> bool:
        """Whether some of its rows count only up to a time."""
        return any(bool((table.expires != np.inf).any()) for table in self.rows.values())


def write_delta(
    target: str | os.PathLike[str],
    head: DeltaHead,
    rows: Mapping[str, RowBatch],
    dense: Mapping[str, Array] | None = None,
    onnx: bytes | None = None,
) -> Path:
    """Writes a delta to the new directory `target`, whole or not at all, and onto the disk. Returns its path.

    Tables without a change are left out. Raises BundleError when it cannot be written, UpdateError for an `onnx`
    without `dense`, for a head that cannot be, and for rows that do not fit it.
    """
    if onnx is not None and dense is None:
        raise UpdateError("dense", f"{target}: expected dense weights beside the graph, got none")
    check_head(str(target), head)
    with new_directory(Path(target), MANIFEST) as root:
        if dense is not None:
            write_tensors(root / DENSE, dense)
        if onnx is not None:
            (root / ONNX).write_bytes(onnx)
        changed = {name: table for name, table in rows.items() if len(table.keys) or table.default is not None}
        if changed:
            (root / ROWS).mkdir()
        for name, table in changed.items():
            check_rows(table, f"{target}: {name}", head.base_version, head.model_version)
            write_rows(_rows_path(root, name), table)
        # Any kind of int and float, such as numpy's clock: msgspec takes only the types themselves.
        numbers = index(head.base_version), index(head.model_version), index(head.pass_number)
        manifest = _Manifest("pepnet-delta", 1, *numbers, float(head.produced_at), head.schema_hash)
        said = msgspec.to_builtins(manifest)
        write_document(root / MANIFEST, {**said, "files": describe_files(root)})
    return Path(os.path.abspath(target))


def read_head(path: str | os.PathLike[str], whole: bool = False) -> DeltaHead:
    """Reads what a delta says of itself. Raises UpdateError.

    whole: looks too whether the files that it lists are there, by their sizes; one that passes may still be refused.
    """
    root = Path(path)
    with reading(root):
        head, document = _head(root)
        if whole:
            check_files(root, typed(str(root / MANIFEST), document, "files", dict), MANIFEST, hashes=False)
        return head


def open_delta(
    path: str | os.PathLike[str],
    schema: FeatureSchema,
    network: Network,
    rest: Rest = no_rest,
    most_bytes: int | None = None,
) -> Delta:
    """Reads and checks a delta for engines of `schema` and `network`.

    Checked are the listing (plain names, sizes, hashes, nothing more than listed, no links), the schema's hash, the
    weights' names, shapes and finiteness, and of the rows: tables, widths, keys of the table and below 2^48, ascending
    and each once, finite rows, versions above the base's and no newer than the delta's. Nothing is read of a delta
    with more than `most_bytes` in its files.

    Raises UpdateError, whatever the directory holds. Its `reason` is one word: format, version, schema, path, table,
    files, size, race (the directory went or was replaced meanwhile), dense, shape, order, range, finite, tombstone or
    malformed; unreadable (the disk) and memory may pass.
    """
    root = Path(path)
    before = _identity(root)
    try:
        with reading(root):
            return _open(root, schema, network, rest, most_bytes)
    except UpdateError as error:
        if before is not None and _identity(root) != before:
            raise UpdateError(
                "race", f"{root}: expected a directory that stays while it is read, got another or none: {error}"
            ) from error
        raise


def _open(root: Path, schema: FeatureSchema, network: Network, rest: Rest, most_bytes: int | None) -> Delta:
    head, document = _head(root)
    rest()
    where = str(root / MANIFEST)
    if head.schema_hash != schema.hash:
        raise UpdateError("schema", f"{where}: schema_hash: expected {schema.hash}, got {head.schema_hash[:80]}")
    tables = {_rows_path(Path(), table.name).as_posix(): table for table in schema.tables}
    with UpdateError.in_place_of(BundleError, reason="files"):
        listing = typed(where, document, "files", dict)
        for name in listing:
            if not plain(name):
                raise UpdateError("path", f"{where}: files: expected plain paths inside the delta, got {name[:200]!r}")
        for name in sorted(set(listing) - {DENSE, ONNX, *tables}):
            expected = f"{DENSE}, {ONNX} or rows of a table"
            raise UpdateError("table", f"{where}: files: expected {expected}, got {name[:200]!r}")
        if ONNX in listing and DENSE not in listing:
            raise UpdateError("dense", f"{where}: files: expected {DENSE} beside {ONNX}, got none")
        rest()
        check_files(root, listing, MANIFEST, hashes=False)
        size = sum(int(entry["bytes"]) for entry in listing.values())
        if most_bytes is not None and size > most_bytes:
            raise UpdateError("size", f"{where}: files: expected at most {most_bytes} bytes, got {size}")
        # Each file is opened once: what is hashed is what is used, whatever takes its name at that moment.
        read = {}
        for name, entry in listing.items():
            rest()
            read[name] = read_entry(root, name, entry)
    dense = _dense(root, read.pop(DENSE), schema, network) if DENSE in read else None
    onnx = read.pop(ONNX, None)
    given = []
    for name, spec in sorted(tables.items(), key=lambda item: item[1].number):
        if name in read:
            rest()
            path = root / name
            given.append((str(path), spec, read_rows(path, read.pop(name), spec)))
    rows = checked(given, head.base_version, head.model_version, rest)
    said = [head.base_version, head.model_version, sorted((name, entry["sha256"]) for name, entry in listing.items())]
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    return Delta(root, head, dense, onnx, rows, size, digest)


def _head(root: Path) -> tuple[DeltaHead, dict[str, Any]]:
    where = str(root / MANIFEST)
    with UpdateError.in_place_of(BundleError, reason="format"):
        document = read_document(root, MANIFEST)
    said: _Manifest = convert(where, document, _Manifest, partial(UpdateError, "format"))
    head = DeltaHead(*structs.astuple(said)[2:])
    check_head(where, head)
    return head, document


def check_head(where: str, head: DeltaHead) -> None:
    """Raises UpdateError for a head that cannot be."""
    if not 0 <= head.base_version < head.model_version < 1 << 63:
        got = f"{head.base_version} to {head.model_version}"
        raise UpdateError(
            "version", f"{where}: expected a version above its base's, both from 0 to 2^63 - 1, got {got}"
        )
    if not 0 <= head.pass_number < 1 << 63 or not abs(head.produced_at) <= _LATEST:
        raise UpdateError("format", f"{where}: expected a pass from 0 and a finite time, got {head!s:.200}")


def _dense(root: Path, data: bytes, schema: FeatureSchema, network: Network) -> dict[str, Array]:
    with UpdateError.in_place_of(BundleError, reason="dense"):
        file = MappedFile(root / DENSE, data)
        check_dense(file, network, values=True)
        dense = {name: file.array(name).copy() for name in file.tensors}
        check_magnitudes(str(root / DENSE), network, dense, input_bounds(schema, {}))
    return dense


def _identity(root: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(root)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _rows_path(root: Path, table: str) -> Path:
    return root / ROWS / f"{table}.safetensors"
