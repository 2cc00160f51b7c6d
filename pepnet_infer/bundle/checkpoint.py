"""The checkpoint, which training writes and export reads: a bundle without its ONNX graph.

checkpoint.json   format_version, schema, config, schema_hash, meta, files
dense.safetensors   tables/NAME.safetensors   side/NAME.safetensors       as in a bundle, rows in float32
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.bundle.bundle import (
    DENSE,
    PLAIN_FORMAT,
    check_payload,
    check_widths,
    read_directory,
    read_sides,
    read_tensors,
    side_path,
    table_path,
)
from pepnet_infer.bundle.manifest import Document
from pepnet_infer.bundle.table_file import TableInfo
from pepnet_infer.encode.side_table import SideTable
from pepnet_infer.errors import BundleError
from pepnet_infer.network.network import Network
from pepnet_infer.quoting import quote
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.network_config import ModelConfig
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.storage.atomic import new_directory
from pepnet_infer.storage.document import write_document
from pepnet_infer.storage.listing import describe_files
from pepnet_infer.storage.tensorfile import Array, to_bfloat16, write_tensors
from pepnet_infer.validation import Finite, untrusted

DOCUMENT = "checkpoint.json"
#: What table rows can be stored as.
TABLE_DTYPES = ("float32", "float16", "bfloat16")

Floats = npt.NDArray[np.float32]
Range = tuple[Finite, Finite]


class _Document(Document, frozen=True, kw_only=True):
    """`checkpoint.json`."""

    meta: dict[str, Any]
    ranges: dict[str, Range]


@dataclass(frozen=True)
class Checkpoint:
    """A trained (or random) model whole: how to read features, how to look them up, and the network's weights.

    `schema` says how features are read, `config` what the network is, `sides` has the side table of each join. `dense`
    has the contract's names for PEPNet and state_dict's names for a baseline, float32. `meta` is plain JSON:
    where the model came from. `ranges` has the least and the largest value of dense fields in training, standardised,
    but for the rarest ones; a field without is taken to be standard normal. `tables` have keys (ascending), rows, GSET
    scores and the default row.
    """

    schema: FeatureSchema
    config: ModelConfig
    tables: Mapping[str, RowBatch]
    sides: Mapping[str, SideTable]
    dense: Mapping[str, Floats]
    meta: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_widths("checkpoint", self.schema, self.config)
        for what, given, wanted in (
            ("tables", set(self.tables), {t.name for t in self.schema.tables}),
            ("sides", set(self.sides), {j.name for j in self.schema.joins}),
        ):
            if given != wanted:
                raise BundleError(
                    f"checkpoint: {what}: expected {sorted(wanted)} as in its schema, got {sorted(given)}"
                )
        dense = {spec.name for spec in self.schema.fields if spec.kind == "dense"}
        for name, (least, largest) in self.ranges.items():
            if name not in dense:
                raise BundleError(f"checkpoint: ranges: expected names of dense fields, got {quote(name)}")
            if not least <= largest:
                raise BundleError(f"checkpoint: ranges.{name}: expected ascending numbers, got {least} and {largest}")
        if not self.schema.fitted:
            raise BundleError("checkpoint: schema: expected every dense field to have its mean and std, got null")

    @property
    def network(self) -> Network:
        """What the config describes, as a list of operations."""
        return Network.derived(self.config, len(self.schema.tasks))

    def save(
        self, path: str | os.PathLike[str], overwrite: bool = False, reports: Mapping[str, bytes] | None = None
    ) -> None:
        """Writes the checkpoint, whole or not at all, with `reports` (name → content) beside it for people to read.

        Raises BundleError when `path` is taken or cannot be written.
        """
        with new_directory(Path(path), DOCUMENT, overwrite) as root:
            self.write_payload(root, "float32")
            for name, content in (reports or {}).items():
                (root / name).write_bytes(content)
            document = {
                "format_version": PLAIN_FORMAT,
                "schema": self.schema.to_json(),
                "config": self.config.to_json(),
                "schema_hash": self.schema.hash,
                "meta": dict(self.meta),
                "ranges": {name: list(ends) for name, ends in self.ranges.items()},
                "files": describe_files(root),
            }
            write_document(root / DOCUMENT, document)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Reads a checkpoint; every file is checked as a bundle's are. Raises BundleError."""
        root = Path(os.path.realpath(path))
        with untrusted(root, BundleError):
            found = read_directory(root, DOCUMENT, _Document, (), values=True)
            for name, info in found.tables.items():
                if info.dtype != "float32":
                    expected = "rows: expected F32 in a checkpoint"
                    raise BundleError(f"{expected}, got {info.dtype}", file=table_path(root, name))
            return cls(
                found.schema,
                found.config,
                tables={name: RowBatch.of(**read_tensors(table_path(root, name))) for name in found.tables},
                sides=read_sides(root, found.schema),
                dense=read_tensors(root / DENSE),
                meta=found.said.meta,
                ranges=found.said.ranges,
            )

    def write_payload(self, root: Path, table_dtype: str) -> dict[str, TableInfo]:
        """Writes dense weights, tables and side tables below the new directory `root`, and checks them as read back.

        Returns what was found of the tables.
        """
        write_tensors(root / DENSE, self.dense)
        (root / "tables").mkdir()
        for name, table in self.tables.items():
            write_table(table_path(root, name), table, table_dtype)
        if self.sides:
            (root / "side").mkdir()
        for name, side in self.sides.items():
            write_tensors(side_path(root, name), side.to_tensors())
        return check_payload(root, self.schema, self.network, values=True)


def write_table(path: Path, table: RowBatch, dtype: str) -> None:
    """Writes one table with its rows as float32, float16 or bfloat16. Raises BundleError when a row does not fit."""
    rows: Array = table.rows
    if dtype == "float16":
        if rows.size and float(np.abs(rows).max()) > float(np.finfo(np.float16).max):
            raise BundleError(f"rows: expected values within float16, got {np.abs(rows).max()}", file=path)
        rows = rows.astype(np.float16)
    elif dtype == "bfloat16":
        rows = to_bfloat16(table.rows)
    elif dtype != "float32":
        raise BundleError(f"table dtype: expected one of {', '.join(TABLE_DTYPES)}, got {dtype!r}")
    if table.default is None:
        raise BundleError(f"default: expected float32 [{rows.shape[1]}], got none", file=path)
    tensors = {"keys": table.keys, "rows": rows, "scores": table.scores, "default": table.default}
    write_tensors(path, tensors, frozenset({"rows"}) if dtype == "bfloat16" else frozenset())
