"""The yaml of a training run: read whole, or refused with the key that is off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from pepnet_infer.errors import ConfigError, SchemaError
from pepnet_infer.export.run_config import RunConfig, Split, TrainConfig, model_config, readable

EXAMPLES = Path(__file__).parents[3] / "examples"
SYNTHETIC = EXAMPLES.parent / "export" / "data" / "synthetic.yaml"


@pytest.mark.parametrize("path", [EXAMPLES / "kuairand.yaml", SYNTHETIC], ids=["kuairand", "synthetic"])
def test_examples_are_read_and_written_back(path: Path) -> None:
    run = RunConfig.read(path)
    assert msgspec.convert(msgspec.to_builtins(run.train), TrainConfig) == run.train
    assert run.schema.tasks == ("click", "long_view", "like", "follow", "forward", "hate")


def test_the_kuairand_example_reads_no_outcome_and_splits_as_published() -> None:
    run = RunConfig.read(EXAMPLES / "kuairand.yaml")
    assert run.train.split == Split(first=20220425, validation=20220505, test=20220506)
    assert run.schema.domains == tuple(range(15))
    read = {f.column for f in run.schema.fields}
    assert not read & {"play_time_ms", "comment_stay_time", "profile_stay_time", *run.schema.labels}
    assert {"user_id", "video_id", "author_id"} <= {s.field.name for s in run.schema.layout["prior"]}


def sections() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(SYNTHETIC.read_text())
    return data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, r"train: unknown key 'epoch'"),
        ({"epochs": 0}, r"train: epochs: expected an integer from 1, got 0"),
        ({"epochs": "3"}, r"train: epochs: expected an integer from 1, got '3'"),
        ({"epochs": True}, r"train: epochs: expected an integer from 1, got True"),
        ({"seed": -1}, r"train: seed: expected an integer .*, got -1"),
        ({"seed": 2**70}, r"train: seed: expected an integer .*, got 1180591620717411303424"),
        ({"refit": 1}, r"train: refit: expected true or false, got 1"),
        ({"lr_dense": -1.0}, r"train: lr_dense: expected a number above 0, got -1\.0"),
        ({"lr_dense": float("nan")}, r"train: lr_dense: expected a number above 0, got nan"),
        ({"dropout": 1.0}, r"train: dropout: expected a number from 0 to below 1, got 1\.0"),
        (
            {"split": {"validation": 6, "test": 5}},
            r"train: split: expected first < validation < test, got .*6",
        ),
        ({"split": {"validation": 4}}, r"train: split: missing key 'test'"),
        ({"split": {"test": 5, "train": 1}}, r"train: split: unknown key 'train'"),
        ({"select_by": ["clicks"]}, r"train: expected tasks of click, .*, got 'clicks'"),
        ({"select_by": "click"}, r"train: select_by: expected a list, each text, got 'click'"),
        ({"loss_weights": {"clicks": 2.0}}, r"train: expected tasks of click, .*, got 'clicks'"),
        ({"gset": {"beta": 2.0}}, r"train: gset.beta: expected a number above 0 to below 1, got 2\.0"),
        ({"gset": {"positive": "buy"}}, r"train: expected tasks of click, .*, got 'buy'"),
        ({"optional_joins": ["users"]}, r"train\.optional_joins: expected joins of items, got 'users'"),
    ],
)
def test_what_is_off_in_the_train_section_is_named(changes: dict[str, Any], message: str) -> None:
    data = sections()
    data["train"] |= changes
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_json(data)


def test_sections_and_widths() -> None:
    data = sections()
    with pytest.raises(ConfigError, match=r"config: expected the sections schema, model and train, got schema, model"):
        RunConfig.from_json({k: v for k, v in data.items() if k != "train"})
    with pytest.raises(SchemaError, match=r"model\.inputs: expected none \(they come from the schema\)"):
        RunConfig.from_json(data | {"model": data["model"] | {"inputs": {"general": 3}}})
    with pytest.raises(SchemaError, match=r"config: unknown key 'layer'"):
        RunConfig.from_json(data | {"model": data["model"] | {"layer": [3]}})
    with pytest.raises(ConfigError, match=r"train: missing key 'split'"):
        RunConfig.from_json(data | {"train": {"epochs": 1}})


def test_a_flag_that_the_network_does_not_read_is_refused_whatever_its_value() -> None:
    data = sections()
    for changes, said in (
        ({"backbone": "towers"}, "experts: expected none, for it is not read with the backbone towers, got 4"),
        ({"gamma": 2.0, "model": "mmoe"}, r"gamma: .* by the baseline mmoe, got 2\.0"),
        ({"use_epnet": False, "epnet_general": True}, "epnet_general: .* without EPNet, got True"),
    ):
        with pytest.raises(SchemaError, match=rf"^model\.{said}$"):
            RunConfig.from_json(data | {"model": data["model"] | changes})
    run = RunConfig.from_json(data)
    assert model_config(run.model, run.schema, model="deepfm").experts == 8  # of another network now: left out
    assert readable({**run.model, "backbone": "towers"}) == {"backbone": "towers", "layers": [64, 32]}


def test_files_that_are_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config .*nowhere\.yaml: expected a yaml file, got .*No such file"):
        RunConfig.read(tmp_path / "nowhere.yaml")
    (tmp_path / "bad.yaml").write_text("train: [1, 2")
    with pytest.raises(ConfigError, match=r"bad\.yaml: expected yaml, got while parsing"):
        RunConfig.read(tmp_path / "bad.yaml")
