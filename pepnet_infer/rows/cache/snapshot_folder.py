"""The caches of all widths on disk: a folder with a snapshot for each, and a document that says whose rows they are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pepnet_infer import _kernels
from pepnet_infer.errors import BundleError, StoreError
from pepnet_infer.rows.cache import snapshot
from pepnet_infer.rows.cache.snapshot import Loaded, Saved
from pepnet_infer.rows.gset import Gset
from pepnet_infer.storage.atomic import new_directory
from pepnet_infer.storage.document import read_document, write_document
from pepnet_infer.validation import convert

DOCUMENT = "cache.json"


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format_version: int
    widths: list[int]
    #: of the store whose rows they are (see `Identified`); None: not known, or rows came by another way as well
    identity: str | None


def save_folder(cores: Mapping[int, _kernels.RowCache], folder: str | os.PathLike[str], identity: str | None) -> Saved:
    """Writes the caches of all widths to `folder`; see `CachedRows.save`."""
    parts = []
    try:
        with new_directory(Path(folder), DOCUMENT, overwrite=True) as fresh:
            parts = [snapshot.save(core, fresh / _name(dim)) for dim, core in cores.items()]
            write_document(fresh / DOCUMENT, {"format_version": 1, "widths": sorted(cores), "identity": identity})
    except BundleError as error:
        raise StoreError.of(error) from error
    return Saved(*map(sum, zip(*parts, strict=True)))


def load_folder(cores: Mapping[int, _kernels.RowCache], folder: str | os.PathLike[str], gset: Gset) -> Loaded:
    """Writes what `folder` holds into caches of the same widths; see `CachedRows.load`. gset: how scores decay."""
    found = _read(folder)
    if sorted(found.widths) != sorted(cores):
        raise StoreError(f"{folder}: expected rows of widths {sorted(cores)}, got {sorted(found.widths)}")
    parts = [snapshot.load(core, Path(folder) / _name(dim), gset) for dim, core in cores.items()]
    return Loaded(*map(sum, zip(*parts, strict=True)))


def check_identity(folder: str | os.PathLike[str], identity: str | None) -> None:
    """Raises StoreError unless the rows of a snapshot are those of the store with this identity."""
    found = _read(folder).identity
    if identity is None:
        raise StoreError(f"{folder}: expected a store that can tell its rows from others, got one without an identity")
    if found != identity:
        got = "rows that were updated, or of a store without an identity" if found is None else f"those of {found}"
        raise StoreError(f"{folder}: expected the rows of {identity}, got {got}")


def _read(folder: str | os.PathLike[str]) -> _Document:
    try:
        data = read_document(Path(folder), DOCUMENT)
    except BundleError as error:
        raise StoreError.of(error) from error
    document: _Document = convert(f"{Path(folder) / DOCUMENT}", data, _Document, StoreError)
    if document.format_version != 1:
        raise StoreError(f"{folder}: expected format version 1, got {document.format_version}")
    return document


def _name(dim: int) -> str:
    return f"width-{dim}.snapshot"
