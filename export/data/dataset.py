"""A data set ready for training: features encoded as they are for scoring, labels, and which rows are for what."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pepnet_infer.encode.columns import Columns, read_columns
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.encode.side_table import SideTable
from pepnet_infer.errors import SchemaError
from pepnet_infer.export.data.codes import CodedIds
from pepnet_infer.export.data.source import Source, refuse_leakage
from pepnet_infer.export.run_config import ScoreConfig, Split, TrainConfig
from pepnet_infer.schema.feature_schema import FeatureSchema

Rows = npt.NDArray[np.int64]
_RAREST = 1e-4
#: A field is fitted on its values as float32 where the rounding of these is below such a share of their deviation.
_FINE = 1e-3
#: A deviation of such a share of the mean, or less, is the rounding of sums in float64: the field is constant.
_CONSTANT = 1e-13


@dataclass(frozen=True)
class Dataset:
    """N exposures in time order."""

    schema: FeatureSchema  # fitted: dense fields have their normalisation
    sides: Mapping[str, SideTable]
    log: pa.Table  # the raw columns
    ids: CodedIds
    dense: Mapping[str, npt.NDArray[np.float32]]  # [N]
    ranges: Mapping[str, tuple[float, float]]  # of dense fields before the test days: see `Checkpoint`
    labels: npt.NDArray[np.float32]  # [N, T], 0 or 1
    times: Rows  # [N], unix milliseconds
    users: Rows  # [N], an integer per user
    domains: Rows  # [N], place in schema.domains
    fit: Rows  # rows of days before the validation day
    validation: Rows  # rows of the validation day; empty without one
    train: Rows  # both: every row before the test days
    test: Rows
    notes: tuple[str, ...] = ()  # what a reader of the results must know

    def positive(self, scoring: ScoreConfig) -> npt.NDArray[np.bool_]:
        """Returns which exposures [N] GSET counts as positive."""
        tasks = self.schema.tasks
        return self.labels[:, tasks.index(scoring.positive or tasks[0])] > 0.5


def build_dataset(source: Source, schema: FeatureSchema, config: TrainConfig) -> Dataset:
    """Reads and encodes `source`.

    Raises SchemaError if a field reads an outcome, a column, label or side table is missing or off, or a part of the
    split has no rows.
    """
    refuse_leakage(schema, source)
    log = source.interactions()
    days = _integers(log, source.day_column)
    first = config.split.first if config.split.first is not None else int(days.min(initial=config.split.test))
    inside = days >= first
    log, days = log.filter(pa.array(inside)), days[inside]
    parts = _parts(days, config.split)

    raw: dict[str, Columns] = {}
    notes = []
    for join in schema.joins:
        table = source.side(join, first)
        if table is not None:
            if join.key in table.column_names:
                table = table.filter(pc.is_valid(table[join.key]))  # the others join to nothing
            raw[join.name] = read_columns(table, SideTable.columns(schema, join))
        elif join.name in config.optional_joins:
            schema, left_out = _without_join(schema, join.name)
            notes.append(f"no {join.file}: trained without {', '.join(left_out)}")
        else:
            raise SchemaError(f"join {join.name!r}: expected the file {join.file}, got none in the data set")

    columns = read_columns(log, schema.columns)
    schema = schema.with_normalisation(_normalisation(schema, columns, raw, parts["train"]))
    sides = {join.name: SideTable.build(schema, join, raw[join.name]) for join in schema.joins}
    features = Encoder(schema, sides).encode(columns)
    return Dataset(
        schema=schema,
        sides=sides,
        log=log,
        ids=CodedIds.of(schema, features),
        dense=features.dense,
        ranges=_ranges(features.dense, sides, parts["train"]),
        labels=np.stack([_label(log, name) for name in schema.labels], axis=1),
        times=_integers(log, source.time_column),
        users=np.unique(log[source.user_column].to_numpy(), return_inverse=True)[1],
        domains=_domains(log, schema),
        notes=tuple(notes),
        **parts,
    )


def write_test_rows(dataset: Dataset, path: Path) -> None:
    """Writes the raw rows of the test days to parquet, labels included. Raises SchemaError if that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(dataset.log.take(dataset.test), path)
    except OSError as error:
        raise SchemaError(f"{path}: cannot write the test rows: {error.strerror}") from error


def _normalisation(
    schema: FeatureSchema, columns: Columns, raw: Mapping[str, Columns], rows: Rows
) -> dict[str, tuple[float, float]]:
    """Returns (mean, std) over `rows` of the dense fields that have none; std 1 for a constant."""
    names = [f.name for f in schema.fields if f.kind == "dense" and (f.mean is None or f.std is None)]
    if not names:
        return {}
    as_they_are = schema.with_normalisation(dict.fromkeys(names, (0.0, 1.0)))
    dense = _encoded(as_they_are, columns, raw, names, rows)
    stats = {name: (float(values.mean()), float(values.std()) or 1.0) for name, values in dense.items()}
    coarse = [name for name in names if np.spacing(np.float32(np.abs(dense[name]).max())) > _FINE * stats[name][1]]
    if coarse:  # float32 holds what is left of a value without the mean, which is exact, where it rounds the value
        left = _encoded(schema.with_normalisation(stats), columns, raw, coarse, rows)
        for name, values in left.items():
            mean, std = stats[name]
            spread = std * float(values.std())
            stats[name] = (mean + std * float(values.mean()), spread if spread > _CONSTANT * abs(mean) else 1.0)
    return stats


def _encoded(
    schema: FeatureSchema, columns: Columns, raw: Mapping[str, Columns], names: Sequence[str], rows: Rows
) -> dict[str, npt.NDArray[np.float64]]:
    """Returns the dense fields `names` at `rows`."""
    sides = {join.name: SideTable.build(schema, join, raw[join.name]) for join in schema.joins}
    dense = Encoder(schema, sides, names).encode(columns).dense
    return {name: dense[name][rows].astype(np.float64) for name in names}


def _ranges(
    dense: Mapping[str, npt.NDArray[np.float32]], sides: Mapping[str, SideTable], rows: Rows
) -> dict[str, tuple[float, float]]:
    """Returns the least and the largest value of each field over `rows` and the side tables, without the rarest.

    One value in ten thousand at each end is left out: among as many there may be one that nobody meant.
    """
    found: dict[str, tuple[float, float]] = {}
    parts = [(name, values[rows]) for name, values in dense.items()]
    for name, values in [*parts, *(item for side in sides.values() for item in side.features.dense.items())]:
        if len(values):
            least = float(np.quantile(values, _RAREST, method="lower"))
            largest = float(np.quantile(values, 1.0 - _RAREST, method="higher"))
            before = found.get(name, (least, largest))
            found[name] = (min(before[0], least), max(before[1], largest))
    return found


def _parts(days: Rows, split: Split) -> dict[str, Rows]:
    train = days < split.test
    validation = train & (days >= (split.test if split.validation is None else split.validation))
    masks = {"fit": train & ~validation, "validation": validation, "train": train, "test": ~train}
    parts = {name: np.flatnonzero(mask) for name, mask in masks.items()}
    for name, rows in parts.items():
        if len(rows) == 0 and (name != "validation" or split.validation is not None):
            got = f"days {days.min()} to {days.max()}" if len(days) else "no days"
            raise SchemaError(f"train.split: expected rows to {name} on, got {got} with {split}")
    return parts


def _without_join(schema: FeatureSchema, name: str) -> tuple[FeatureSchema, list[str]]:
    """Returns the schema without join `name`, its fields and the tables nothing reads any more, and those fields."""
    fields = tuple(f for f in schema.fields if f.join != name)
    used = {f.table for f in fields}
    smaller = dataclasses.replace(
        schema,
        fields=fields,
        joins=tuple(j for j in schema.joins if j.name != name),
        tables=tuple(t for t in schema.tables if t.name in used),
    )
    return smaller, [f.name for f in schema.fields if f.join == name]


def _integers(log: pa.Table, name: str) -> Rows:
    column = _column(log, name)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise SchemaError(f"column {name!r}: expected integers, got {column.type} ({column.null_count} nulls)")
    return column.to_numpy().astype(np.int64)


def _label(log: pa.Table, name: str) -> npt.NDArray[np.float32]:
    column = _column(log, name)
    if column.null_count or not (pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
        raise SchemaError(f"label column {name!r}: expected 0 or 1, got {column.type} ({column.null_count} nulls)")
    values = column.to_numpy().astype(np.float32)
    off = np.flatnonzero((values != 0) & (values != 1))
    if len(off):
        raise SchemaError(f"label column {name!r}: expected 0 or 1, got {values[off[0]]:g} at row {off[0]}")
    return values


def _domains(log: pa.Table, schema: FeatureSchema) -> Rows:
    place = {value: n for n, value in enumerate(schema.domains)}
    values, inverse = np.unique(_column(log, schema.domain_column).to_numpy(), return_inverse=True)
    return np.array([place[value] for value in values.tolist()])[inverse]


def _column(log: pa.Table, name: str) -> pa.ChunkedArray[Any]:
    if name not in log.column_names:
        raise SchemaError(f"column {name!r}: expected in the log, got columns {', '.join(log.column_names)}")
    return log[name]
