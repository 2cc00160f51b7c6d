"""What a training run is told: the `train` section of its yaml."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pepnet_infer.config import ModelConfig
from pepnet_infer.errors import SchemaError
from pepnet_infer.schema import FeatureSchema


@dataclass(frozen=True)
class Split:
    """Days by role: [first, validation) fits, `validation` chooses the epochs, days from `test` on only measure.

    `first` None: from the log's first day on. `validation` None: all `epochs` are run, nothing is chosen.
    """

    test: int
    validation: int | None = None
    first: int | None = None

    def __post_init__(self) -> None:
        days = [d for d in (self.first, self.validation, self.test) if d is not None]
        if days != sorted(set(days)):
            raise SchemaError(f"train.split: expected first < validation < test, got {days}")


@dataclass(frozen=True)
class ScoreConfig:
    """GSET scores: per interval, S ← (1-decay)·S + decay·(weight·c⁺ + c⁻), c⁺ counting positives of task `positive`."""

    positive: str | None = None  # None: the first task
    weight: float = 3.0  # r
    decay: float = 0.1  # β; 0.1 with a day as the interval
    interval_hours: float = 24.0

    def __post_init__(self) -> None:
        if not (0 < self.decay <= 1 and self.weight >= 0 and self.interval_hours > 0):
            raise SchemaError(f"train.gset: expected 0 < decay <= 1, weight >= 0, interval_hours > 0, got {self}")


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained. The embedding side is AdaGrad, the dense side Adam."""

    split: Split
    epochs: int = 5  # at most, when a validation day chooses
    patience: int = 1  # epochs without a better validation day before it stops
    refit: bool = True  # once more from scratch on all days before `test`, for the epochs the validation day chose
    batch: int = 1024
    seeds: int = 3
    seed: int = 0
    lr_embedding: float = 0.05
    lr_dense: float = 1e-3
    accumulator: float = 0.0  # what AdaGrad's sums of squares begin with
    l2_embedding: float = 0.0  # on the rows a batch touches
    l2_dense: float = 0.0
    init_std: float = 0.01  # of embedding rows
    min_count: int = 2  # ids seen less often in the training rows are served, and train, their table's default row
    id_dropout: float = 0.0  # share of ids that train the default row instead of their own
    dropout: float = 0.0  # on the embedded inputs
    loss_weights: Mapping[str, float] = field(default_factory=dict)  # per task, 1 if not named
    select_by: tuple[str, ...] = ()  # tasks whose mean AUC on the validation day chooses; empty: all stable ones
    min_positives: int = 200  # a task with fewer positives (or negatives) has no stable AUC
    optional_joins: tuple[str, ...] = ()  # joins whose fields are left out if the data set lacks them
    gset: ScoreConfig = ScoreConfig()

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch", "seeds", "min_count"):
            if getattr(self, name) < 1:
                raise SchemaError(f"train.{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("lr_embedding", "lr_dense"):
            if not getattr(self, name) > 0:
                raise SchemaError(f"train.{name}: expected more than 0, got {getattr(self, name)}")
        for name in ("accumulator", "l2_embedding", "l2_dense", "init_std"):
            if not getattr(self, name) >= 0:
                raise SchemaError(f"train.{name}: expected at least 0, got {getattr(self, name)}")
        for name in ("id_dropout", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise SchemaError(f"train.{name}: expected 0 <= share < 1, got {getattr(self, name)}")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainConfig:
        """Reads a `train` section. Raises SchemaError naming the key that is missing, unknown or of the wrong type."""
        values = dict(_section("train", data, cls))
        if "split" not in values:
            raise SchemaError("train: missing key 'split'")
        split = _section("train.split", values["split"], Split)
        if "test" not in split:
            raise SchemaError("train.split: missing key 'test'")
        values["split"] = Split(**split)
        if "gset" in values:
            values["gset"] = ScoreConfig(**_section("train.gset", values["gset"], ScoreConfig))
        for name in ("select_by", "optional_joins"):
            if name in values:
                values[name] = tuple(values[name])
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` reads, with every default written out."""
        data = dataclasses.asdict(self)
        data["loss_weights"] = dict(self.loss_weights)
        data["select_by"], data["optional_joins"] = list(self.select_by), list(self.optional_joins)
        return data

    def check(self, schema: FeatureSchema) -> None:
        """Raises SchemaError if a task or join named here is not in `schema`."""
        named = [*self.select_by, *self.loss_weights, *([self.gset.positive] if self.gset.positive else [])]
        for task in named:
            if task not in schema.tasks:
                raise SchemaError(f"train: expected tasks of {', '.join(schema.tasks)}, got {task!r}")
        joins = [j.name for j in schema.joins]
        for join in self.optional_joins:
            if join not in joins:
                raise SchemaError(f"train.optional_joins: expected joins of {', '.join(joins) or 'none'}, got {join!r}")


@dataclass(frozen=True)
class RunConfig:
    """A whole yaml: the features, the model's flags (its `inputs` come from the schema's widths) and the training."""

    schema: FeatureSchema
    model: Mapping[str, Any]
    train: TrainConfig

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """Reads `path`. Raises SchemaError if it is not there, is no yaml, or has a section that is off."""
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise SchemaError(f"config {path}: expected a yaml file, got {error}") from error
        except yaml.YAMLError as error:
            raise SchemaError(f"config {path}: expected yaml, got {' '.join(str(error).split())}") from error
        return cls.from_json(data)

    @classmethod
    def from_json(cls, data: object) -> RunConfig:
        """Reads the three sections `schema`, `model` and `train`."""
        if not isinstance(data, Mapping) or set(data) != {"schema", "model", "train"}:
            got = ", ".join(map(str, data)) if isinstance(data, Mapping) else repr(data)
            raise SchemaError(f"config: expected the sections schema, model and train, got {got}")
        run = cls(FeatureSchema.from_json(data["schema"]), dict(data["model"]), TrainConfig.from_json(data["train"]))
        run.train.check(run.schema)
        model_config(run.model, run.schema)
        return run


def model_config(flags: Mapping[str, Any], schema: FeatureSchema, **changes: object) -> ModelConfig:
    """Returns the config of `flags` with `changes`, its input widths those of `schema`."""
    if "inputs" in flags:
        raise SchemaError("model.inputs: expected none (they come from the schema), got widths")
    return ModelConfig.from_json({**flags, **changes, "inputs": dict(schema.widths)})


def _section(where: str, data: object, cls: type[TrainConfig | Split | ScoreConfig]) -> dict[str, Any]:
    """Returns `data` checked key by key against the fields of `cls`."""
    if not isinstance(data, Mapping):
        raise SchemaError(f"{where}: expected a mapping, got {data!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key, value in data.items():
        if key not in fields:
            raise SchemaError(f"{where}: unknown key {key!r}; known: {', '.join(fields)}")
        kind = str(fields[key].type)
        if kind.startswith("int") and (value is not None or "None" not in kind):
            right = isinstance(value, int) and not isinstance(value, bool)
        elif kind == "float":
            right = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        elif kind == "bool":
            right = isinstance(value, bool)
        elif kind.startswith("tuple"):
            right = isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)
        elif kind.startswith("str"):
            right = value is None or isinstance(value, str)
        elif kind.startswith("Mapping"):
            right = isinstance(value, Mapping) and all(isinstance(v, (int, float)) for v in value.values())
        else:
            right = True
        if not right:
            raise SchemaError(f"{where}.{key}: expected {kind}, got {value!r}")
    return dict(data)
