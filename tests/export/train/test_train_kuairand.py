"""Training on real exposures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from pepnet_infer.export.data.dataset import build_dataset
from pepnet_infer.export.data.source import open_source
from pepnet_infer.export.run_config import RunConfig, Split, model_config
from pepnet_infer.export.train.compare import train_all, variants
from pepnet_infer.export.train.metrics import ALL, auc
from pepnet_infer.export.train.train import train

FOLDER = os.environ.get("PEPNET_KUAIRAND", "")
pytestmark = [
    pytest.mark.kuairand,
    pytest.mark.skipif(not FOLDER, reason="PEPNET_KUAIRAND names no folder"),
]


@pytest.fixture
def run() -> RunConfig:
    return RunConfig.read(Path(__file__).parents[3] / "examples" / "kuairand.yaml")


def test_two_days_are_enough_for_a_sane_auc(run: RunConfig) -> None:
    split = Split(first=20220503, validation=20220505, test=20220506)
    settings = structs.replace(run.train, split=split, epochs=1, refit=False)
    data = build_dataset(open_source(f"kuairand:{FOLDER}"), run.schema, settings)
    assert (len(data.fit), len(data.validation), len(data.test)) == (35_807, 13_103, 42_485)
    trained = train(data, model_config(run.model, data.schema), settings, seed=0)
    click, long_view = (auc(data.labels[data.test, t], trained.test_scores[:, t]) for t in (0, 1))
    assert click > 0.70
    assert long_view > 0.70


@pytest.mark.slow
def test_pepnet_reaches_the_published_level(run: RunConfig) -> None:
    data = build_dataset(open_source(f"kuairand:{FOLDER}"), run.schema, run.train)
    assert (len(data.train), len(data.test)) == (180_243, 42_485)
    (outcome,), _ = train_all(data, variants(run.model, data, compare=False), run.train, lambda *_: lambda *_: None)
    mean = {cell.task: float(np.mean(cell.auc)) for cell in outcome.cells if cell.domain == ALL}
    assert mean["click"] >= 0.728
    assert mean["long_view"] >= 0.725
    assert mean["like"] >= 0.77
