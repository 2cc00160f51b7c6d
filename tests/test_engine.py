"""The engine against float64 formulas over naive lookups, in every form a batch and a request may have."""

from __future__ import annotations

import ast
import inspect
import pickle
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from counting_rows import CountingRows

import pepnet_infer
from pepnet_infer import (
    BundleError,
    CacheStats,
    ClosedError,
    ConfigError,
    Engine,
    EngineStats,
    Features,
    FollowStats,
    SchemaError,
    stats,
)
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.sync import DirectoryLog

Batch = dict[str, Any]


@pytest.fixture(scope="module")
def engine(toy_bundle: Path) -> Iterator[Engine]:
    with Engine.load(toy_bundle, threads=2) as engine:
        yield engine


def as_lists(batch: Batch) -> Batch:
    """The same batch with every bag as a list of lists."""

    def lists(values: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
        return [values[a:b].tolist() for a, b in pairwise(offsets)]

    return {name: lists(*column) if isinstance(column, tuple) else column for name, column in batch.items()}


def naive_inputs(batch: Batch, checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """General, domain and prior in float64, one row and one field at a time, in the order the schema is written."""
    tables = checkpoint.tables

    def row(table: str, id: int) -> np.ndarray:
        found = tables[table].rows[id] if id < 40 else tables[table].default
        return found.astype(np.float64)

    lists = as_lists(batch)
    general, domain, prior = [], [], []
    for i in range(len(batch["tab"])):
        user, video = row("user", lists["user_id"][i]), row("video", lists["video_id"][i])
        watched = [row("video", id) for id in lists["watched"][i][-8:]]
        tags = [row("tag", id) for id in lists["tags"][i]]
        dense = [(np.log1p(batch["duration"][i]) - 2.0) / 1.5, (batch["age"][i] - 35.0) / 10.0]
        pooled = np.mean(watched, axis=0) if watched else np.zeros(5)
        summed = np.sum(tags, axis=0) if tags else np.zeros(3)
        general.append(np.concatenate([user, video, pooled, summed, dense]))
        domain.append(row("page", lists["tab"][i]))
        prior.append(np.concatenate([user, video]))
    return np.array(general), np.array(domain), np.array(prior)


def test_scores_are_those_of_the_formulas_over_naive_lookups(
    engine: Engine,
    toy_checkpoint: Checkpoint,
    toy_batch: Callable[..., Batch],
    reference_scores: Callable[..., np.ndarray],
) -> None:
    batch = toy_batch(300, 1)
    expected = reference_scores(toy_checkpoint.config, toy_checkpoint.dense, *naive_inputs(batch, toy_checkpoint))
    scores = engine.score(batch)
    assert scores.values.dtype == np.float32
    assert scores.values.shape == (300, 2)
    assert expected.std() > 0.1  # a bound on scores that are all alike would say nothing
    assert np.abs(scores.values - expected).max() <= 1e-5
    assert scores.tasks == ("click", "like")
    assert scores.model_version == 7
    assert len(scores) == 300
    assert np.array_equal(scores.column("like"), scores.to_dict()["like"])
    assert np.array_equal(scores.column("like"), scores.values[:, 1])
    with pytest.raises(SchemaError, match="task: expected one of click, like, got 'share'"):
        scores.column("share")


def test_every_form_of_a_batch_gives_the_same_bits(engine: Engine, toy_batch: Callable[..., Batch]) -> None:
    batch = toy_batch(50, 2)
    expected = engine.score(batch).values
    lists = as_lists(batch)
    table = pa.table(lists)
    forms: dict[str, object] = {
        "dict of lists": lists,
        "arrow table": table,
        "record batch": table.to_batches()[0],
        "chunked table": pa.concat_tables([table.slice(0, 7), table.slice(7)]),
        "dictionary-encoded column": table.set_column(0, "user_id", table["user_id"].dictionary_encode()),
        "pandas": pd.DataFrame(lists),
        "arrow-backed pandas": pd.DataFrame(
            {name: pd.Series(column, dtype=pd.ArrowDtype(table[name].type)) for name, column in lists.items()}
        ),
        "polars": pl.DataFrame(lists),
        "duckdb": duckdb.from_arrow(table),
    }
    for name, form in forms.items():
        assert np.array_equal(engine.score(form).values, expected), name


def test_no_rows_and_many_rows_are_batches_too(engine: Engine, toy_batch: Callable[..., Batch]) -> None:
    empty = engine.score(toy_batch(0))
    assert empty.values.shape == (0, 2)
    assert empty.values.dtype == np.float32
    many = engine.score(toy_batch(9000, 3)).values  # more than one chunk of the backend
    first = {name: c[:100] for name, c in as_lists(toy_batch(9000, 3)).items()}
    assert np.abs(many[:100] - engine.score(first).values).max() <= 1e-6
    assert np.isfinite(many).all()


def test_unknown_ids_are_counted_by_field_and_table(toy_bundle: Path, toy_batch: Callable[..., Batch]) -> None:
    batch = toy_batch(200, 4)
    lists = as_lists(batch)
    expected = {
        "user_id": int((batch["user_id"] >= 40).sum()),
        "video_id": int((batch["video_id"] >= 40).sum()),
        "watched": sum(id >= 40 for bag in lists["watched"] for id in bag[-8:]),
    }
    with Engine.load(toy_bundle) as engine:
        assert engine.score(batch).unknown == expected
        engine.score(batch)
        unknown = engine.stats()["unknown"]
    assert unknown["fields"] == {name: 2 * count for name, count in expected.items()}
    assert unknown["tables"] == {
        "user": 2 * expected["user_id"],
        "video": 2 * (expected["video_id"] + expected["watched"]),
    }


def test_strict_refuses_columns_that_no_field_reads(engine: Engine, toy_batch: Callable[..., Batch]) -> None:
    batch = {**toy_batch(3), "is_click": [0, 1, 0]}
    assert len(engine.score(batch)) == 3
    with pytest.raises(SchemaError, match="unexpected column 'is_click'"):
        engine.score(batch, strict=True)


def test_score_dense_is_the_dense_part_alone(
    engine: Engine, toy_checkpoint: Checkpoint, reference_scores: Callable[..., np.ndarray]
) -> None:
    rng = np.random.default_rng(0)
    widths = toy_checkpoint.config.inputs
    for rows in (0, 1, 2, 7, 1000):
        general, domain, prior = (
            rng.standard_normal((rows, width), np.float32) for width in (widths.general, widths.domain, widths.prior)
        )
        scores = engine.score_dense(general, domain, prior)
        assert scores.dtype == np.float32
        assert scores.shape == (rows, 2)
        expected = reference_scores(toy_checkpoint.config, toy_checkpoint.dense, general, domain, prior)
        assert np.abs(scores - expected).max(initial=0.0) <= 1e-5
        gaps = np.zeros((2 * rows, widths.general), np.float32)[::2]
        gaps[:] = general
        assert np.array_equal(engine.score_dense(gaps, np.asfortranarray(domain), prior), scores)


def test_stats_count_what_was_done(toy_bundle: Path, toy_batch: Callable[..., Batch]) -> None:
    with Engine.load(toy_bundle, threads=1) as engine:
        assert engine.stats()["rows"] == 0
        engine.score(toy_batch(10))
        engine.score(toy_batch(7))
        with pytest.raises(SchemaError):
            engine.score({})
        stats = engine.stats()
    assert (stats["batches"], stats["rows"], stats["errors"]) == (2, 17, 1)
    assert set(stats["time_us"]) == {"encode", "lookup", "dense"}
    assert all(spent > 0 for spent in stats["time_us"].values())
    assert stats["model_version"] == 7
    assert stats["backend"]["device"] == "cpu"
    assert stats["backend"]["threads"] == 1


def test_repr_says_what_an_engine_is(toy_bundle: Path) -> None:
    with Engine.load(toy_bundle, precision="bf16", threads=1) as engine:
        assert repr(engine) == f"<Engine: {toy_bundle}; model_version 7; native bf16 on cpu; cache gset>"
    assert repr(engine) == "<Engine: closed>"
    with Engine.load(toy_bundle, backend="onnxruntime", cache=None) as engine:
        assert repr(engine).endswith("; onnxruntime fp32 on cpu; no cache>")


CLOSED: dict[str, Callable[[Engine, Any], object]] = {
    "score": lambda engine, batch: engine.score(batch),
    "score_dense": lambda engine, batch: engine.score_dense(*[np.zeros((1, 3), np.float32)] * 3),
    "score_features": lambda engine, batch: engine.score_features(Features(0)),
    "rank": lambda engine, batch: engine.rank({}, batch, 1),
    "encode": lambda engine, batch: engine.encode(batch),
    "encode_rows": lambda engine, batch: engine.encode_rows(batch),
    "follow": lambda engine, batch: engine.follow("a folder"),  # type: ignore[arg-type]
    "rollback": lambda engine, batch: engine.rollback(3),
    "hold": lambda engine, batch: engine.hold(),
    "stats": lambda engine, batch: engine.stats(),
    "metrics": lambda engine, batch: engine.metrics(),
    "identity": lambda engine, batch: engine.identity(),
    "pickle": lambda engine, batch: pickle.dumps(engine),
    "cache": lambda engine, batch: engine.cache,
    "bundle": lambda engine, batch: engine.bundle,
    "schema": lambda engine, batch: engine.schema,
    "tasks": lambda engine, batch: engine.tasks,
    "model_version": lambda engine, batch: engine.model_version,
}


@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_engine_says_so(toy_bundle: Path, toy_batch: Callable[..., Batch], name: str) -> None:
    engine = Engine.load(toy_bundle, check="sizes", threads=1)
    engine.close()
    engine.close()
    with pytest.raises(ClosedError, match=r"^Engine is closed\.$"):
        CLOSED[name](engine, toy_batch(1))


def test_nothing_else_can_be_asked_of_a_closed_engine() -> None:
    public = {name for name in vars(Engine) if not name.startswith("_")}
    assert public - set(CLOSED) == {"load", "close", "reset_after_fork"}


def test_stats_have_the_shape_that_is_documented(toy_bundle: Path, toy_batch: Callable[..., Batch]) -> None:
    with Engine.load(toy_bundle, threads=1) as engine:
        engine.score(toy_batch(10))
        found = engine.stats()
    _fits(found, EngineStats)
    _fits(found["cache"], CacheStats)
    for counts in (found["cache"]["total"], *found["cache"]["fields"].values()):  # type: ignore[index]
        _fits(counts, stats.LookupCounts)
    _fits(found["unknown"], stats.DefaultedIds)
    _fits(found["bundle"], stats.BundleState)
    source = inspect.getsource(stats)
    lines = source.splitlines()
    for shape in (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)):
        assert ast.get_docstring(shape), shape.name
        for key in shape.body[1:]:
            assert isinstance(key, ast.AnnAssign)
            about = lines[key.lineno - 2].lstrip(), lines[key.lineno - 1]
            assert about[0].startswith("#: ") or "  #: " in about[1], f"{shape.name}: {about[1]} is not documented"


def test_stats_of_following_have_the_shape_that_is_documented(toy_bundle: Path, tmp_path: Path) -> None:
    with Engine.load(toy_bundle, threads=1, check="sizes") as engine:
        engine.follow(DirectoryLog(tmp_path / "log", create=True))
        _fits(engine.stats()["sync"], FollowStats)


def _fits(found: Any, shape: Any) -> None:
    assert set(found) == set(get_type_hints(shape))


def test_features_are_what_encode_returns(toy_bundle: Path, toy_batch: Callable[..., Batch]) -> None:
    with Engine.load(toy_bundle) as engine:
        encoded = engine.encode_rows(toy_batch(3))
        with pytest.raises(SchemaError, match=r"features: expected what Engine\.encode returns, .*, got Encoded"):
            engine.score_features(encoded)  # type: ignore[arg-type]
        assert len(engine.score_features(encoded.features)) == 3


def test_load_refuses_what_is_not_there(toy_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"expected a directory with manifest\.json"):
        Engine.load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="store: expected a store with get_many or a row source with answer"):
        Engine.load(toy_bundle, store={})  # type: ignore[arg-type]


def test_rows_may_come_from_another_store(toy_bundle: Path, toy_batch: Callable[..., Batch]) -> None:
    rows = CountingRows(MmapStore(Bundle.open(toy_bundle).table_paths))
    with Engine.load(toy_bundle, store=rows) as engine, Engine.load(toy_bundle) as plain:
        assert np.array_equal(engine.score(toy_batch(5)).values, plain.score(toy_batch(5)).values)
    assert rows.asked


def test_the_package_is_light_to_import_and_knows_its_version() -> None:
    heavy = "'numpy', 'pyarrow', 'pandas', 'torch', 'onnx', 'onnxruntime', 'typer', 'pepnet_infer._kernels'"
    code = f"import sys, pepnet_infer; print([name for name in ({heavy}) if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    for name in pepnet_infer.__all__:
        assert getattr(pepnet_infer, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Enigne'"):
        pepnet_infer.Enigne  # noqa: B018
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert project["project"]["version"] == pepnet_infer.__version__
