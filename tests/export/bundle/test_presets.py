"""Presets are of the size their names promise, and the same again from the same seed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.errors import BundleError, ConfigError
from pepnet_infer.export.bundle.presets import make_preset, preset_names, read_preset
from pepnet_infer.export.run_config import model_config
from pepnet_infer.network.cost import multiply_adds
from pepnet_infer.network.network import Network
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import make_keys
from pepnet_infer.schema.network_config import BASELINES


@pytest.fixture(scope="module")
def kuaishou() -> Checkpoint:
    return make_preset("kuaishou", seed=0, table_rows=50)


def test_there_are_three() -> None:
    assert preset_names() == ["kuaishou", "paper", "seed"]


def test_kuaishou_is_of_the_size_it_says(kuaishou: Checkpoint) -> None:
    schema, config = kuaishou.schema, kuaishou.config
    general = [slot.field for slot in schema.layout["general"]]
    assert [f.kind for f in general] == ["id"] * 30 + ["dense"] * 16
    assert schema.widths == {"general": 1216, "domain": 48, "prior": 120}
    assert [s.field.name for s in schema.layout["prior"]] == ["user_id", "video_id", "author_id"]
    assert len(schema.tasks) == 6
    assert len(schema.domains) == 3
    assert (config.backbone, config.experts, config.layers, config.towers) == ("mmoe", 8, (512, 256), (64,))
    assert (config.gate_position, config.gate_scope, config.gate_hidden) == ("output", "layer", None)
    assert round(multiply_adds(Network.derived(config, 6)) / 1e6, 2) == 10.56
    weights = sum(value.size for value in kuaishou.dense.values())
    assert round(weights / 1e6, 2) == 10.57
    assert weights == sum(math.prod(shape) for shape in Network.derived(config, 6).tensors.values())


def test_seed_and_paper_are_what_they_say(kuaishou: Checkpoint) -> None:
    seed = make_preset("seed", table_rows=50)
    assert {t.dim for t in seed.schema.tables} == {40}
    assert (len(seed.config.layers), seed.config.experts, seed.config.backbone) == (2, 8, "mmoe")
    shared = {f.name: f.table for f in seed.schema.fields if f.kind == "bag" or f.name == "video_id"}
    assert shared["watched"] == shared["video_id"]
    data = read_preset("paper")
    paper_schema = FeatureSchema.from_json(data["schema"])
    paper = model_config(data["model"], paper_schema)
    assert (paper.backbone, paper.gate_position, paper.gate_scope) == ("towers", "input", "group")
    assert paper_schema.widths == kuaishou.schema.widths
    assert 0.9 < multiply_adds(Network.derived(paper, 6)) / multiply_adds(kuaishou.network) < 1.1


@pytest.mark.parametrize("model", BASELINES)
def test_baselines_have_the_widths_of_a_preset(kuaishou: Checkpoint, model: str) -> None:
    config = model_config(read_preset(f"kuaishou-{model}")["model"], kuaishou.schema)
    assert (config.model, config.layers, config.towers) == (model, (512, 256), (64,))
    assert config.experts == 8


def test_tables_are_filled(kuaishou: Checkpoint) -> None:
    limits = read_preset("kuaishou")["cardinality"]
    assert set(kuaishou.tables) == set(kuaishou.schema.table_by_name)
    for name, table in kuaishou.tables.items():
        rows = min(50, limits.get(name, 50))
        number = kuaishou.schema.table_by_name[name].number
        np.testing.assert_array_equal(table.keys, make_keys(number, np.arange(rows, dtype=np.uint64)))
        assert table.rows.shape == (rows, 40)
        assert table.default.shape == (40,)
        assert np.abs(table.default).max() > 0
    assert len(kuaishou.tables["page"].keys) == 3
    assert np.abs(np.concatenate([t.rows for t in kuaishou.tables.values()]).std() - 1) < 0.02


def test_scores_fall_off_as_zipf() -> None:
    scores = make_preset("seed", seed=3, table_rows=2000).tables["user"].scores
    assert scores[0] != scores.max(), "the most valuable id is not always the first"
    falling = np.sort(scores)[::-1].astype(np.float64)
    slope = np.polyfit(np.log(np.arange(1, 2001)), np.log(falling), 1)[0]
    assert -1.1 < slope < -1.0


def test_the_seed_decides() -> None:
    first, again, other = (make_preset("seed", seed=s, table_rows=20) for s in (1, 1, 2))
    for name, value in first.dense.items():
        np.testing.assert_array_equal(value, again.dense[name])
        assert not np.array_equal(value, other.dense[name]), name
    for name, table in first.tables.items():
        np.testing.assert_array_equal(table.rows, again.tables[name].rows)
        assert not np.array_equal(table.rows, other.tables[name].rows)


def test_tables_may_be_empty() -> None:
    tables = make_preset("seed", table_rows=0).tables
    assert {len(table.keys) for table in tables.values()} == {0}
    assert tables["user"].rows.shape == (0, 40)


def test_what_is_not_there_is_an_error() -> None:
    with pytest.raises(BundleError, match="preset: expected one of kuaishou, paper, seed, got 'tiktok'"):
        make_preset("tiktok")
    with pytest.raises(BundleError, match="preset: table rows: expected 0 or more, got -1"):
        make_preset("seed", table_rows=-1)
    with pytest.raises(ConfigError, match=r"seed: expected an integer from 0 to .*, got 18446744073709551616"):
        make_preset("seed", seed=2**64, table_rows=1)
