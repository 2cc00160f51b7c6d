"""Generated traffic: what is in it, and that PEPNet finds what is planted."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import structs

from pepnet_infer.export.data.dataset import build_dataset
from pepnet_infer.export.data.synthetic import PAGES, RATES, Synthetic, SyntheticConfig, synthetic_run
from pepnet_infer.export.run_config import model_config
from pepnet_infer.export.train.metrics import auc
from pepnet_infer.export.train.train import train
from pepnet_infer.schema.feature_schema import JoinSpec

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def test_the_built_in_config_has_the_pages_of_the_traffic() -> None:
    assert synthetic_run().schema.domains == PAGES


def test_ids_are_zipf_pages_and_rates_as_said() -> None:
    config = SyntheticConfig(rows=50_000)
    log = Synthetic(config).interactions()
    counts = np.bincount(log["user_id"].to_numpy(), minlength=config.users)
    slope = np.polyfit(np.log(np.arange(1, config.users + 1)), np.log(counts), 1)[0]
    assert slope == pytest.approx(-config.zipf, abs=0.05)
    assert set(log["page"].to_pylist()) == set(PAGES)
    for task, rate in RATES.items():
        assert log[task].to_numpy().mean() == pytest.approx(rate, abs=0.01)
    assert (np.diff(log["time_ms"].to_numpy()) >= 0).all()


def test_the_same_seed_gives_the_same_rows() -> None:
    a, b, c = (Synthetic(SyntheticConfig(rows=500, seed=s)).interactions() for s in (1, 1, 2))
    assert a == b
    assert a != c


def test_the_only_side_table_is_of_items() -> None:
    source = Synthetic(SyntheticConfig(rows=10))
    items = source.side(JoinSpec("items", "item_id", "item_id", "items"), 0)
    assert items is not None
    assert items.num_rows == source.config.items
    assert source.side(JoinSpec("users", "user_id", "user_id", "users"), 0) is None


def gains(effect: float, seeds: range, epochs: int = 5) -> list[float]:
    """Returns per seed the mean AUC over tasks of PEPNet less that of MMoE, on the test day."""
    run = synthetic_run()
    settings = structs.replace(run.train, refit=False, epochs=epochs)
    result = []
    for seed in seeds:
        source = Synthetic(SyntheticConfig(domain_effect=effect, user_effect=effect, seed=seed))
        data = build_dataset(source, run.schema, settings)
        labels = data.labels[data.test]
        means = {}
        for model in ("pepnet", "mmoe"):
            scores = train(data, model_config(run.model, data.schema, model=model), settings, seed).test_scores
            means[model] = np.mean([auc(y, s) for y, s in zip(labels.T, scores.T, strict=True)])
        result.append(float(means["pepnet"] - means["mmoe"]))
    return result


def test_pepnet_beats_mmoe_where_effects_are_planted() -> None:
    found = gains(1.0, range(2), epochs=3)
    assert np.mean(found) > 0.008, found
    assert min(found) > 0.004, found


def test_pepnet_equals_mmoe_where_nothing_is_planted() -> None:
    found = gains(0.0, range(1, 2))
    assert abs(np.mean(found)) < 0.004, found


@pytest.mark.slow
def test_both_over_more_seeds() -> None:
    planted, plain = gains(1.0, range(5)), gains(0.0, range(5))
    assert np.mean(planted) > 0.009, planted
    assert min(planted) > 0.004, planted
    assert abs(np.mean(plain)) < 0.003, plain
