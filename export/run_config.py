"""Training configuration: the sections of the yaml and their validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from msgspec import Meta

from pepnet_infer.errors import ConfigError, SchemaError
from pepnet_infer.quoting import quote
from pepnet_infer.rows.gset import Gset
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.network_config import ModelConfig, unread
from pepnet_infer.validation import Finite, NotNegative, Options, Positive, Seed, Several, convert


class Split(Options, frozen=True):
    """Days by role: [first, validation) fits, `validation` chooses the epochs, days from `test` on only measure.

    `first` None: from the log's first day on. `validation` None: all `epochs` are run, nothing is chosen.
    """

    test: int
    validation: int | None = None
    first: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        days = [d for d in (self.first, self.validation, self.test) if d is not None]
        if days != sorted(set(days)):
            raise ConfigError(f"expected first < validation < test, got {days}")


class ScoreConfig(Gset, frozen=True):
    """GSET's scores that the tables carry; c⁺ counts positives of task `positive`."""

    positive: str | None = None  # None: the first task


class TrainConfig(Options, frozen=True):
    """How a model is trained. The embedding side is AdaGrad, the dense side Adam. Raises ConfigError."""

    split: Split
    epochs: Several = 5  # at most, when a validation day chooses
    patience: Several = 1  # epochs without a better validation day before it stops
    refit: bool = True  # once more from scratch on all days before `test`, for the epochs the validation day chose
    batch: Several = 1024
    seeds: Several = 3
    seed: Seed = 0
    lr_embedding: Positive = 0.05
    lr_dense: Positive = 1e-3
    accumulator: NotNegative = 0.0  # what AdaGrad's sums of squares begin with
    l2_embedding: NotNegative = 0.0  # on the rows a batch touches
    l2_dense: NotNegative = 0.0
    init_std: NotNegative = 0.01  # of embedding rows
    min_count: Several = 2  # ids seen less often in the training rows are served, and train, their table's default row
    id_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0  # share of ids that train the default row instead of their own
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0  # on the embedded inputs
    loss_weights: Mapping[str, Finite] = {}  # per task, 1 if not named
    select_by: tuple[str, ...] = ()  # tasks whose mean AUC on the validation day chooses; empty: all stable ones
    min_positives: int = 200  # a task with fewer positives (or negatives) has no stable AUC
    optional_joins: tuple[str, ...] = ()  # joins whose fields are left out if the data set lacks them
    gset: ScoreConfig = ScoreConfig()

    def check(self, schema: FeatureSchema) -> None:
        """Raises ConfigError if a task or join named here is not in `schema`."""
        named = [*self.select_by, *self.loss_weights, *([self.gset.positive] if self.gset.positive else [])]
        for task in named:
            if task not in schema.tasks:
                raise ConfigError(f"train: expected tasks of {', '.join(schema.tasks)}, got {task!r}")
        joins = [j.name for j in schema.joins]
        for join in self.optional_joins:
            if join not in joins:
                raise ConfigError(f"train.optional_joins: expected joins of {', '.join(joins) or 'none'}, got {join!r}")


@dataclass(frozen=True)
class RunConfig:
    """A whole yaml: the features, the flags of `model` (its `inputs` are the schema's widths), and how to `train`."""

    schema: FeatureSchema
    model: Mapping[str, Any]
    train: TrainConfig

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """Reads `path`.

        Raises ConfigError if it is not there, is no yaml, or has a train section that is off, SchemaError for the
        other sections.
        """
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"config {path}: expected a yaml file, got {error}") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"config {path}: expected yaml, got {' '.join(str(error).split())}") from error
        return cls.from_json(data)

    @classmethod
    def from_json(cls, data: object) -> RunConfig:
        """Reads the three sections `schema`, `model` and `train`."""
        if not isinstance(data, Mapping) or set(data) != {"schema", "model", "train"}:
            got = ", ".join(map(str, data)) if isinstance(data, Mapping) else repr(data)
            raise ConfigError(f"config: expected the sections schema, model and train, got {got}")
        train = convert("train", data["train"], TrainConfig, ConfigError)
        run = cls(FeatureSchema.from_json(data["schema"]), dict(data["model"]), train)
        run.train.check(run.schema)
        model_config(run.model, run.schema)
        return run


def model_config(flags: Mapping[str, Any], schema: FeatureSchema, **changes: object) -> ModelConfig:
    """Returns the config of `flags` with `changes`, its input widths those of `schema`.

    Flags that the network does not read are refused, but for those of a network that `changes` made another.
    Raises SchemaError.
    """
    if "inputs" in flags:
        raise SchemaError("model.inputs: expected none (they come from the schema), got widths")
    if changes:
        flags = readable({**flags, **changes})
    for name, why in unread(flags).items():
        if name in flags:
            raise SchemaError(f"model.{name}: expected none, for it is not read {why}, got {quote(flags[name])}")
    return ModelConfig.from_json({**flags, "inputs": dict(schema.widths)})


def readable(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `flags` without those that the network does not read."""
    left_out = unread(flags)
    return {name: value for name, value in flags.items() if name not in left_out}
