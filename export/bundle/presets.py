"""Presets: models of a stated size with random weights and filled tables, so that any figure can be had untrained."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np
import yaml

from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.errors import BundleError, SchemaError
from pepnet_infer.export.model.random_init import random_dense
from pepnet_infer.export.run_config import model_config
from pepnet_infer.schema.feature_schema import FeatureSchema, TableSpec
from pepnet_infer.schema.ids import MAX_ID, make_keys
from pepnet_infer.schema.network_config import BASELINES
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.validation import Seed, check_option

PREFIX = "preset:"
TABLE_ROWS = 10_000
_ZIPF = 1.05  # exponent of the scores over ranks: what access counts of ids in ranking traffic look like


def preset_names() -> list[str]:
    """Returns the names that `preset:NAME` may have."""
    folder = resources.files("pepnet_infer.bench").joinpath("presets")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def is_preset(name: str) -> bool:
    """Whether `preset:NAME` may have this name: one of `preset_names()`, or with "-MODEL" a baseline of its size."""
    base, _, model = name.partition("-")
    return base in preset_names() and (model in BASELINES if "-" in name else True)


def make_preset(name: str, seed: int = 0, table_rows: int = TABLE_ROWS) -> Checkpoint:
    """Returns the checkpoint of preset `name`, the same for the same `seed` and `table_rows`.

    Each table holds ids 0 to rows - 1, rows N(0, 1), a default row N(0, 1), and scores that fall off as a Zipf law
    over a random order of the ids. Raises BundleError for a name there is not or a number of rows out of range,
    ConfigError for a seed out of range.
    """
    if not is_preset(name):
        raise BundleError(f"preset: expected one of {', '.join(preset_names())}, got {name!r}")
    if not 0 <= table_rows < MAX_ID:
        raise BundleError(f"preset: table rows: expected 0 or more, got {table_rows}")
    check_option("seed", seed, Seed)
    data = read_preset(name)
    schema = FeatureSchema.from_json(data["schema"])
    config = model_config(data["model"], schema)
    limits: Mapping[str, int] = data["cardinality"]
    if unknown := sorted(set(limits) - set(schema.table_by_name)):
        raise SchemaError(f"preset {name}: cardinality: expected names of tables, got {unknown[0]!r}")
    tables = {t.name: _table(t, min(table_rows, limits.get(t.name, table_rows)), seed) for t in schema.tables}
    dense = random_dense(config, len(schema.tasks), seed)
    meta = {"preset": name, "seed": seed, "table_rows": table_rows}
    return Checkpoint(schema=schema, config=config, tables=tables, sides={}, dense=dense, meta=meta)


def read_preset(name: str) -> dict[str, Any]:
    """Returns the yaml of preset `name`: sections schema, model and cardinality.

    One may have the inputs of another; tables and fields that differ in their names alone are written out. NAME-MODEL
    is the baseline MODEL with the widths and experts of NAME, and of its own flags the defaults.
    """
    name, _, model = name.partition("-")
    if model:
        base = read_preset(name)
        names = ("layers", "towers", *(("experts",) if model == "mmoe" else ()))
        flags = {key: base["model"][key] for key in names if key in base["model"]}
        return {**base, "model": {"model": model, **flags}}
    text = resources.files("pepnet_infer.bench").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    if "inputs_of" in data:
        other = read_preset(data.pop("inputs_of"))
        return {**data, "schema": {**other["schema"], "name": name}, "cardinality": other["cardinality"]}
    schema = data["schema"]
    schema["tables"] = {table: {"dim": schema["tables"]["dim"]} for table in schema["tables"]["names"]}
    schema["fields"] = [field for group in schema["fields"] for field in _fields(group)]
    return data


def _fields(group: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns a field for each of a group's `names`, with a table of that name for ids; or the only field there is."""
    names = group.pop("names", None)
    if names is None:
        return [group]
    return [{"name": name, **group, **({"table": name} if group["kind"] == "id" else {})} for name in names]


def _table(spec: TableSpec, rows: int, seed: int) -> RowBatch:
    rng = np.random.default_rng([seed, spec.number])
    scores = (np.arange(1, rows + 1, dtype=np.float64) ** -_ZIPF).astype(np.float32)
    return RowBatch.of(
        rng.standard_normal((rows, spec.dim), dtype=np.float32),
        keys=make_keys(spec.number, np.arange(rows, dtype=np.uint64)),
        scores=rng.permutation(scores),
        default=rng.standard_normal(spec.dim, dtype=np.float32),
    )
