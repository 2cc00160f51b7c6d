"""The models of a training run: one, or PEPNet with its ablations and the baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from pepnet_infer.export.data.dataset import Dataset
from pepnet_infer.export.model.baselines import DeepFM
from pepnet_infer.export.run_config import TrainConfig, model_config
from pepnet_infer.export.train.metrics import Cell, evaluate
from pepnet_infer.export.train.train import Progress, Trained, train
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.network_config import BASELINES, ModelConfig

#: Called when a model's training with a seed begins; returns what is told of every batch.
Begin = Callable[[str, int], Progress]


@dataclass(frozen=True)
class Outcome:
    """What one model reached with each of its seeds."""

    name: str
    config: ModelConfig
    seeds: Sequence[int]
    epochs: Sequence[int]  # per seed: what the final model was trained for
    seconds: Sequence[float]
    history: Sequence[Sequence[Mapping[str, float]]]
    cells: Sequence[Cell]

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON."""
        return {
            "model": self.name,
            "config": self.config.to_json(),
            "seeds": list(self.seeds),
            "epochs": list(self.epochs),
            "seconds": [round(s, 2) for s in self.seconds],
            "history": list(self.history),
            "metrics": [cell.to_json() for cell in self.cells],
        }


def variants(flags: Mapping[str, Any], dataset: Dataset, compare: bool) -> dict[str, ModelConfig]:
    """Returns name → config of the models to train, the one that is kept first.

    compare: PEPNet as `flags` have it, without EPNet, without PPNet, and every baseline, on the same inputs and with
    the same layers, experts and towers.
    """
    schema = dataset.schema
    if not compare:
        config = model_config(flags, schema)
        if not config.extra:
            config = structs.replace(config, extra=_extra(config.model, schema))
        return {config.model: config}
    return {
        "pepnet": model_config(flags, schema, model="pepnet"),
        "pepnet w/o EPNet": model_config(flags, schema, model="pepnet", use_epnet=False),
        "pepnet w/o PPNet": model_config(flags, schema, model="pepnet", use_ppnet=False),
        **{name: model_config(flags, schema, model=name, extra=_extra(name, schema)) for name in BASELINES},
    }


def _extra(name: str, schema: FeatureSchema) -> dict[str, Any]:
    return DeepFM.slots(schema) if name == "deepfm" else {}


def train_all(
    dataset: Dataset, configs: Mapping[str, ModelConfig], settings: TrainConfig, begin: Begin
) -> tuple[list[Outcome], Trained]:
    """Trains every config with every seed. Returns the outcomes and the first config's model of the first seed."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    labels, users = dataset.labels[dataset.test], dataset.users[dataset.test]
    domains, names = dataset.domains[dataset.test], dataset.schema.domains
    outcomes: list[Outcome] = []
    kept: Trained | None = None
    for name, config in configs.items():
        # Of each model only these: with all their rows and scores they may not fit the memory.
        runs: list[tuple[int, float, Sequence[Mapping[str, float]]]] = []
        scores = []
        for seed in seeds:
            trained = train(dataset, config, settings, seed, begin(name, seed))
            kept = kept or trained
            runs.append((trained.epochs, trained.seconds, trained.history))
            scores.append(trained.test_scores)
        cells = evaluate(dataset.schema.tasks, labels, users, domains, names, scores, settings.min_positives)
        epochs, seconds, history = zip(*runs, strict=True)
        outcomes.append(Outcome(name, config, seeds, epochs, seconds, history, cells))
    if kept is None:
        raise ValueError("expected at least one model to train, got none")
    return outcomes, kept
