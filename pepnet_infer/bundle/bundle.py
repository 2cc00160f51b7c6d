"""The bundle: a directory with everything scoring needs, checked before any of it is used."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pepnet_infer.bundle.accuracy import BUDGETS, Budget, check_budget
from pepnet_infer.bundle.magnitude import check_magnitudes, input_bounds
from pepnet_infer.bundle.manifest import Document, Manifest, Parity, read_parity
from pepnet_infer.bundle.table_file import TableInfo, check_table
from pepnet_infer.computed_once import computed_once
from pepnet_infer.encode.side_table import SideTable
from pepnet_infer.errors import BundleError, SchemaError
from pepnet_infer.network.network import Network
from pepnet_infer.quoting import quote
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.network_config import ModelConfig
from pepnet_infer.storage.document import read_document, typed
from pepnet_infer.storage.listing import FileState, check_files, file_states
from pepnet_infer.storage.local_path import check_local
from pepnet_infer.storage.tensorfile import MappedFile
from pepnet_infer.validation import check_option, convert, untrusted

FORMAT_VERSION = 2
#: That a checkpoint has, and that a bundle had before its manifest carried the network.
PLAIN_FORMAT = 1
MANIFEST = "manifest.json"
ONNX = "dense.onnx"
DENSE = "dense.safetensors"
PARITY = "parity.json"

Check = Literal["full", "sizes"]
_Said = TypeVar("_Said", bound=Document)


@dataclass(frozen=True)
class NewerDense:
    """Dense weights that came after a bundle was written."""

    weights: Mapping[str, npt.NDArray[np.float32]]
    onnx: bytes | None  # their graph, where one came with them


@dataclass(frozen=True)
class Bundle:
    """A bundle that has passed its checks. Tables stay on disk; `dense` and `sides` read theirs when asked."""

    path: Path
    manifest: Mapping[str, Any]
    schema: FeatureSchema
    config: ModelConfig
    model_version: int
    parity: Mapping[str, Any]
    tables: Mapping[str, TableInfo]
    #: dense weights, and their graph, that took the place of those in the directory
    newer: NewerDense | None = None
    #: which files they were that were checked, by name
    files: Mapping[str, FileState] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | os.PathLike[str], check: Check = "full") -> Bundle:
        """Opens the bundle at `path` (itself allowed to be a symlink; inside it none is).

        "full" compares every hash and looks at every weight and row; "sizes" trusts the bytes and compares names,
        sizes, dtypes and shapes. Raises BundleError saying what was expected, what came and where.
        """
        check_option("check", check, Check)
        check_local(path, "a bundle's directory", BundleError)
        root = Path(os.path.realpath(path))
        with untrusted(root, BundleError):
            found = read_directory(root, MANIFEST, Manifest, (ONNX, PARITY), values=check == "full")
            said, schema, where = found.said, found.schema, str(root / MANIFEST)
            for key, expected, got in (("tasks", schema.tasks, said.tasks), ("domains", schema.domains, said.domains)):
                if got != list(expected):
                    wanted = f"{quote(list(expected))} as in its schema"
                    raise BundleError(f"{key}: expected {wanted}, got {quote(got)}", within=where)
            for precision, budget in said.precisions.items():
                check_budget(f"{where}: precisions", precision, budget)
            parity = read_document(root, PARITY)
            measured = read_parity(str(root / PARITY), parity, len(schema.tasks))
            _check_measured(where, said, str(root / PARITY), measured)
            version, files = said.model_version, found.files
            bundle = cls(root, found.document, schema, found.config, version, parity, found.tables, files=files)
            bundle.check_unchanged()
            return bundle

    def changed(self) -> tuple[str, str] | None:
        """Returns what has become of the files since they were checked, and of which; None: nothing.

        "replaced": another file has the name of one, as after a rename, which harms nobody who has the bundle open.
        "changed": one was written to, or cut.
        """
        for name, was in self.files.items():
            try:
                now = file_states(self.path, [name])[name]
            except BundleError:  # there is none of that name now
                return "replaced", name
            if now != was:
                return "changed" if now[:2] == was[:2] else "replaced", name
        return None

    def check_unchanged(self) -> None:
        """Raises BundleError unless the files are those that were checked: what was read meanwhile may be of others."""
        changed = self.changed()
        if changed is not None:
            how, name = changed
            raise BundleError(
                f"expected a bundle that stays as it was opened, got one of which {name} was {how} "
                "meanwhile; replace a bundle by rename, and load it again",
                file=self.path,
            )

    @property
    def table_hashes(self) -> dict[str, str]:
        """Table name → SHA-256 of its file, as the manifest has it."""
        listing = self.manifest["files"]
        return {name: listing[table_path(Path(), name).as_posix()]["sha256"] for name in self.table_paths}

    @computed_once
    def network(self) -> Network:
        """What the dense part computes, as a list of operations."""
        return _network(str(self.path / MANIFEST), self.manifest, self.config, len(self.tasks))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The targets, in the order of the score columns."""
        return self.schema.tasks

    @property
    def budgets(self) -> dict[str, Budget]:
        """Precision → what it may cost; none in a bundle from before there were budgets."""
        budgets: dict[str, Budget] = self.manifest.get("precisions", {})
        return budgets

    @property
    def native(self) -> dict[str, Any]:
        """Precision → what export measured of the native kernels; empty when it measured none."""
        native: Mapping[str, Any] = self.parity.get("native", {})
        return {precision: native[precision] for precision in ("fp32", *BUDGETS) if precision in native}

    @computed_once
    def digests(self) -> Mapping[str, str]:
        """What scores depend on, as SHA-256 in hex: `weights`, of the config and the files, and each narrow precision.

        A precision's is of the inputs that it was measured on: rows outside of them are scored in another one.
        """
        files: Mapping[str, Mapping[str, object]] = self.manifest["files"]
        listed = [[name, entry["sha256"]] for name, entry in sorted(files.items()) if name != PARITY]
        domains = {name: found["domain"] for name, found in self.native.items() if "domain" in found}
        lists = [self.manifest["network"]] if "network" in self.manifest else []
        values = {"weights": [self.manifest["config"], *lists, listed], **domains}
        return {
            name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
            for name, value in values.items()
        }

    @property
    def onnx_path(self) -> Path:
        """The simplified graph: general, domain, prior [batch, ·] float32 → scores [batch, T] float32."""
        return self.path / ONNX

    @property
    def table_paths(self) -> dict[str, Path]:
        """Table name → its file."""
        return {table.name: table_path(self.path, table.name) for table in self.schema.tables}

    def dense(self) -> dict[str, npt.NDArray[np.float32]]:
        """Returns the dense weights: the contract's names for PEPNet, the module's own names for a baseline."""
        if self.newer is not None:
            return dict(self.newer.weights)
        weights = read_tensors(self.path / DENSE)
        self.check_unchanged()
        return weights

    def onnx(self) -> bytes | Path:
        """Returns the simplified graph, or where it is. Raises BundleError where newer weights came without one."""
        if self.newer is None:
            return self.onnx_path
        if self.newer.onnx is None:
            raise BundleError(f"expected {ONNX} with the weights of a later version, got none", file=self.path)
        return self.newer.onnx

    def with_dense(self, weights: Mapping[str, npt.NDArray[np.float32]], onnx: bytes | None, version: int) -> Bundle:
        """Returns the same bundle with other dense weights, which fit its config, as a later version."""
        return replace(self, model_version=version, newer=NewerDense(weights, onnx))

    def sides(self) -> dict[str, SideTable]:
        """Reads the side tables by name."""
        sides = read_sides(self.path, self.schema)
        self.check_unchanged()
        return sides


def table_path(root: Path, name: str) -> Path:
    """Where table `name` lies in a bundle or checkpoint at `root`."""
    return root / "tables" / f"{name}.safetensors"


def side_path(root: Path, name: str) -> Path:
    """Where side table `name` lies in a bundle or checkpoint at `root`."""
    return root / "side" / f"{name}.safetensors"


class Directory(NamedTuple, Generic[_Said]):
    """What was read of the directory of a bundle or a checkpoint, all of it checked."""

    document: dict[str, Any]
    said: _Said  # the document as its type
    schema: FeatureSchema
    config: ModelConfig
    files: dict[str, FileState]
    tables: dict[str, TableInfo]


def read_directory(root: Path, name: str, kind: type[_Said], more: Sequence[str], values: bool) -> Directory[_Said]:
    """Reads the document `name`, of type `kind`, and checks the files of bundles and checkpoints, and `more`.

    values: every byte of them is looked at. Raises BundleError.
    """
    # Sizes alone do not tell the files of one bundle from those of another, which may have come after its document.
    before: dict[str, FileState] = {}
    with contextlib.suppress(BundleError):  # of one that is not there, of which `read_document` says more
        before = file_states(root, [name])
    document, where = read_document(root, name), str(root / name)
    version = typed(where, document, "format_version", int)
    newest = FORMAT_VERSION if kind is Manifest else PLAIN_FORMAT
    if not PLAIN_FORMAT <= version <= newest:
        what = "a newer format: update pepnet-infer" if version > newest else "an unknown format"
        known = " or ".join(map(str, range(PLAIN_FORMAT, newest + 1)))
        raise BundleError(f"format_version: expected {known}, got {version}, {what}", within=where)
    said: _Said = convert(where, document, kind, BundleError)
    with BundleError.in_place_of(SchemaError, within=where):
        schema, config = FeatureSchema.from_json(said.schema), ModelConfig.from_manifest(said.config)
    if not schema.fitted:
        raise BundleError("schema: expected every dense field to have its mean and std, got null", within=where)
    if said.schema_hash != schema.hash:
        raise BundleError(f"schema_hash: expected {schema.hash} for its schema, got {said.schema_hash}", within=where)
    check_widths(where, schema, config)
    network = _network(where, document, config, len(schema.tasks))
    sides = [side_path(root, join.name) for join in schema.joins]
    payload = [root / DENSE, *(table_path(root, table.name) for table in schema.tables), *sides]
    for file in (*more, *(path.relative_to(root).as_posix() for path in payload)):
        if file not in said.files:
            raise BundleError(f"files: expected {quote(file)} to be listed, got no such entry", within=where)
    files = check_files(root, said.files, name, hashes=values) | before
    return Directory(document, said, schema, config, files, check_payload(root, schema, network, values))


def _network(where: str, document: Mapping[str, Any], config: ModelConfig, tasks: int) -> Network:
    """Returns the network of a document: the list that it carries, or, of format 1, the one that its config gives."""
    if document.get("format_version", PLAIN_FORMAT) == PLAIN_FORMAT:
        return Network.derived(config, tasks)
    network = Network.read(where, document.get("network"))
    if network.inputs != config.inputs:
        raise BundleError(f"network.inputs: expected {config.inputs}, got {network.inputs}", within=where)
    if network.scores != tasks:
        raise BundleError(f"network.heads: expected {tasks} scores, one a task, got {network.scores}", within=where)
    return network


def _check_measured(where: str, said: Manifest, parity: str, measured: Parity) -> None:
    """Raises BundleError unless the manifest's config is the one of the network that export measured.

    Tensors do not say all of it: with another γ, or gates at another place where the widths are equal, the native
    kernels would run another network than that of the graph.
    """
    with BundleError.in_place_of(SchemaError, within=parity):
        ModelConfig.from_manifest(measured.config)
    for name in dict.fromkeys([*said.config, *measured.config]):
        if said.config.get(name) != measured.config.get(name):
            raise BundleError(
                f"config.{name}: expected {quote(measured.config.get(name))} as in {PARITY}, which was measured with "
                f"it, got {quote(said.config.get(name))}",
                within=where,
            )
    if said.network != measured.network:
        raise BundleError(f"network: expected the list in {PARITY}, which was measured, got another", within=where)


def check_widths(where: str, schema: FeatureSchema, config: ModelConfig) -> None:
    """Raises BundleError when the inputs the schema lays out are not those the network takes."""
    for name, width in schema.widths.items():
        got = getattr(config.inputs, name)
        if got != width:
            raise BundleError(
                f"config.inputs.{name}: expected {width} columns as in its schema, got {got}", within=where
            )


def check_payload(root: Path, schema: FeatureSchema, network: Network, values: bool) -> dict[str, TableInfo]:
    """Checks dense weights and tables against schema and network, with `values` also what is in them.

    Numbers then are finite, and so small that no product of them overflows (`check_magnitudes`). Raises BundleError.
    """
    dense = MappedFile(root / DENSE)
    check_dense(dense, network, values)
    tables = {t.name: check_table(table_path(root, t.name), t, values) for t in schema.tables}
    if values:
        largest = {name: info.largest for name, info in tables.items() if info.largest is not None}
        weights = {name: dense.array(name) for name in dense.tensors}
        check_magnitudes(str(dense.path), network, weights, input_bounds(schema, largest))
        dense.check(error=BundleError)
        read_sides(root, schema)
    else:
        for join in schema.joins:
            MappedFile(side_path(root, join.name))
    return tables


def check_dense(file: MappedFile, network: Network, values: bool) -> None:
    """Checks names, dtypes and shapes of the dense weights; with `values` also that all are finite."""
    path, header, shapes = file.path, file.tensors, network.tensors
    for name in sorted(set(shapes) - set(header)):
        raise BundleError(f"expected tensor {quote(name)} {list(shapes[name])}, got none of that name", file=path)
    for name in sorted(set(header) - set(shapes)):
        if 0 not in header[name].shape:
            raise BundleError(
                f"tensor {quote(name)}: expected a tensor that its network reads, got one more", file=path
            )
    for name, shape in shapes.items():
        if header[name].shape != shape:
            got = list(header[name].shape)
            raise BundleError(f"tensor {quote(name)}: expected shape {list(shape)}, got {got}", file=path)
    for name, info in header.items():
        if info.dtype != "F32":
            raise BundleError(f"tensor {quote(name)}: expected F32, got {info.dtype}", file=path)
        if values:
            finite = np.isfinite(file.array(name))
            if not finite.all():
                index = [int(i) for i in np.argwhere(~finite)[0]]
                raise BundleError(
                    f"tensor {quote(name)}: expected finite values, got NaN or infinity at {index}", file=path
                )


def read_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Returns every tensor of a file, in memory. BF16 comes as uint16."""
    file = MappedFile(path)
    tensors = {name: file.array(name).copy() for name in file.tensors}
    file.check(error=BundleError)
    return tensors


def read_sides(root: Path, schema: FeatureSchema) -> dict[str, SideTable]:
    """Reads the side tables of a bundle or checkpoint. Raises BundleError when one does not fit the schema."""
    sides = {}
    for join in schema.joins:
        path = side_path(root, join.name)
        with BundleError.in_place_of(SchemaError, file=path), untrusted(path, BundleError):
            sides[join.name] = SideTable.from_tensors(schema, join, read_tensors(path))
    return sides
