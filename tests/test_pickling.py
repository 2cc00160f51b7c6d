"""What goes to other processes: engines as the arguments they were loaded with, stores, options, results."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import cloudpickle
import numpy as np
import pytest

from pepnet_infer import (
    BackendError,
    BundleError,
    CacheConfig,
    ClosedError,
    Engine,
    FieldConfig,
    StoreError,
    UpdateError,
)
from pepnet_infer.backends.create import create_backend
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.rows.stores.lmdb import LmdbStore
from pepnet_infer.rows.stores.memory import MemoryStore
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.rows.stores.writable import fill_from
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.sync.follow_config import FollowConfig
from pepnet_infer.sync.logs.directory import DirectoryLog

PATIENCE_S = 60.0
Batches = Callable[..., dict[str, Any]]


def again(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("backend", ["native", "onnxruntime"])
def test_an_engine_pickles_as_what_it_was_loaded_with(
    toy_bundle: Path, toy_batch: Batches, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(toy_bundle, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    cache = CacheConfig("lru", "1MiB", fields={"user_id": FieldConfig(ttl=60.0)})
    with Engine.load(
        "bundle", backend=backend, threads=1, cache=cache, check="sizes", options={"spin": False}
    ) as engine:
        expected = engine.score(toy_batch(30))
        pickled = pickle.dumps(engine)
    monkeypatch.chdir("/")  # another process has another working directory
    with pickle.loads(pickled) as other:
        assert np.array_equal(other.score(toy_batch(30)).values, expected.values)
        assert other.stats()["backend"]["spin"] is False
        assert other.cache.config == cache
        with copy.copy(other) as third:
            assert third.model_version == expected.model_version


def test_a_worker_that_is_spawned_scores_with_it(toy_bundle: Path, toy_batch: Batches) -> None:
    with Engine.load(toy_bundle, backend="native", threads=1, check="sizes") as engine:
        expected = engine.score(toy_batch(30)).values
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            scores = pool.submit(engine.score, toy_batch(30)).result(PATIENCE_S)
    assert np.array_equal(scores.values, expected)


def test_another_bundle_in_its_place_is_refused(toy_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(toy_bundle, path)
    with Engine.load(path, backend="native", threads=1, check="sizes") as engine:
        pickled = pickle.dumps(engine)
    manifest = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(manifest.replace('"model_version": 7', '"model_version": 8'))
    with pytest.raises(BundleError, match=r"got another, of model version 8"):
        pickle.loads(pickled)
    shutil.rmtree(path)
    with pytest.raises(BundleError):
        pickle.loads(pickled)


class Counts:
    """A store of a user's own that does not pickle."""

    def __init__(self) -> None:
        self.generator = (number for number in range(3))

    def get_many(self, keys: Any, dim: int) -> RowBatch:
        return RowBatch.nothing(len(keys), dim)


def test_its_store_pickles_with_it_or_the_error_says_what_to_do(
    toy_bundle: Path, toy_batch: Batches, tmp_path: Path
) -> None:
    bundle = Bundle.open(toy_bundle, "sizes")
    with LmdbStore(tmp_path, durable=False) as store:
        fill_from(store, bundle.table_paths, bundle.schema.table_by_name)
        with Engine.load(toy_bundle, backend="native", threads=1, store=store, check="sizes") as engine:
            expected = engine.score(toy_batch(30)).values
            pickled = pickle.dumps(engine)
    with pickle.loads(pickled) as other:
        assert np.array_equal(other.score(toy_batch(30)).values, expected)
    for live in (MemoryStore(), Counts()):
        with (
            Engine.load(toy_bundle, backend="native", threads=1, store=live, check="sizes") as engine,
            pytest.raises(StoreError, match=f"store: {type(live).__name__} does not pickle .*load the engine in each"),
        ):
            pickle.dumps(engine)


def test_a_store_that_fails_in_any_way_is_said_and_what_pickles_more_is_tried(toy_bundle: Path) -> None:
    class Local(Counts):  # no other process finds this class by its name
        def __init__(self) -> None:
            self.read = lambda keys: len(keys)

    class Fails(Counts):
        def __reduce__(self) -> tuple[object, ...]:
            raise RuntimeError("no")

    with Engine.load(toy_bundle, backend="native", threads=1, store=Fails(), check="sizes") as engine:
        for dumps in (pickle.dumps, cloudpickle.dumps):
            with pytest.raises(StoreError, match=r"store: Fails does not pickle \(no\)"):
                dumps(engine)
    with Engine.load(toy_bundle, backend="native", threads=1, store=Local(), check="sizes") as engine:
        with pickle.loads(cloudpickle.dumps(engine)) as other:
            assert other.cache.store.read([1, 2]) == 2
        without = {name: None for name in sys.modules if name.endswith("cloudpickle") or name == "dill"}
        with mock.patch.dict(sys.modules, without), pytest.raises(StoreError, match=r"store: Local does not pickle"):
            pickle.dumps(engine)


def test_an_engine_that_is_more_than_its_bundle_does_not_pickle(toy_bundle: Path, tmp_path: Path) -> None:
    engine = Engine.load(toy_bundle, backend="native", threads=1, check="sizes")
    engine.follow(DirectoryLog(tmp_path, create=True), FollowConfig())
    with pytest.raises(UpdateError, match="load an engine in each worker and call follow there"):
        pickle.dumps(engine)
    engine.close()
    with pytest.raises(ClosedError, match="closed"):
        pickle.dumps(engine)
    bundle = Bundle.open(toy_bundle)
    with (
        Engine(bundle, MmapStore(bundle.table_paths), create_backend(bundle, "native", threads=1)) as made,
        pytest.raises(BackendError, match="expected one made by Engine"),
    ):
        pickle.dumps(made)


def test_options_and_results_pickle(toy_bundle: Path, toy_batch: Batches, tmp_path: Path) -> None:
    with Engine.load(toy_bundle, backend="native", threads=1, check="sizes") as engine:
        scores, features, encoded = (
            engine.score(toy_batch(9)),
            engine.encode(toy_batch(9)),
            engine.encode_rows(toy_batch(9)),
        )
        other = again(scores)
        assert np.array_equal(other.values, scores.values)
        assert (other.tasks, other.unknown) == (scores.tasks, scores.unknown)
        assert np.array_equal(engine.score_features(again(features)).values, scores.values)
        assert again(encoded).features.num_rows == 9
        assert again(engine.schema).hash == engine.schema.hash
        assert again(engine.bundle).model_version == 7
    for options in (
        CacheConfig(fields={"user_id": FieldConfig(ttl=3.0)}),
        FollowConfig(name="one"),
        FieldConfig(ttl=3.0),
    ):
        assert again(options) == options
    assert again(DirectoryLog(tmp_path)).path == tmp_path
