"""Statistics as Prometheus text: read back by Prometheus' own parser, nothing twice, nothing forgotten."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pepnet_infer import Engine
from pepnet_infer.prometheus import prometheus_text
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.schema.ids import make_keys

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> tuple[Samples, dict[str, str]]:
    """Returns samples by name and labels, and types by name."""
    samples: Samples = {}
    types: dict[str, str] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in samples, key
            samples[key] = sample.value
            types[sample.name] = family.type
    return samples, types


@pytest.fixture
def stats(toy_bundle: Path, toy_table: Callable[..., pa.Table]) -> dict[str, Any]:
    """What an engine says that has scored, and whose cache has seen updates."""
    config = CacheConfig(policy="gset", capacity="4MiB")
    with Engine.load(toy_bundle, cache=config) as engine:
        for seed in range(3):
            engine.score(toy_table(200, seed))
        assert engine.cache is not None
        for cache in engine.cache.caches.values():
            keys = make_keys(0, np.arange(5, dtype=np.uint64))
            for version in (1, 2, 3):
                cache.apply(keys, np.ones((5, cache.dim), np.float32), np.full(5, version, np.uint64))
            cache.delete(keys[:2], np.full(2, 9, np.uint64))
        return engine.stats()


def test_every_number_is_there(stats: dict[str, Any]) -> None:
    samples, types = parsed(prometheus_text(stats))
    said = Counter(samples.values())

    def numbers(node: object) -> list[float]:
        if isinstance(node, Mapping):
            return [value for below in node.values() for value in numbers(below)]
        return [float(node)] if isinstance(node, int | float) and not isinstance(node, bool) else []

    cache = stats["cache"]
    assert stats["rows"] == 600
    assert cache["total"]["hits"] > 0
    mine = {name: cache[name] for name in ("tables", "fields", "defaults", "store", "flights")}
    again = ("dim", "hits", "misses", "negative_hits")  # said of its tables
    widths = [{k: v for k, v in one.items() if k not in again} for one in cache["widths"].values()]
    wanted = Counter(numbers(mine) + [value for width in widths for value in numbers(width)])
    keys = ("batches", "rows", "errors", "invalid", "unknown", "unavailable", "model_version")
    engine = {name: stats[name] for name in keys}
    wanted += Counter(numbers(engine) + [spent / 1e6 for spent in stats["time_us"].values()])
    wanted += Counter([1.0, 1.0, 0.0])  # the two that say what is running, and that the bundle was not changed
    assert said == wanted
    assert set(types.values()) == {"counter", "gauge"}
    assert all((kind == "counter") == name.endswith("_total") for name, kind in types.items())


def test_names_labels_and_values(stats: dict[str, Any]) -> None:
    samples, types = parsed(prometheus_text(stats))
    cache = stats["cache"]
    assert len(cache["tables"]) >= 2
    for table, sums in cache["tables"].items():
        label = (("table", table),)
        assert samples["pepnet_cache_hits_total", label] == sums["hits"]
        assert samples["pepnet_cache_misses_total", label] == sums["misses"]
        assert samples["pepnet_cache_lookups_total", label] == sums["keys"]
    for width, one in cache["widths"].items():
        labels = ("width", width)
        assert samples["pepnet_cache_rows", (labels,)] == one["rows"] > 0
        assert samples["pepnet_cache_memory_bytes", (labels,)] == one["memory_bytes"]
        assert samples["pepnet_cache_occupancy_ratio", (labels,)] == one["occupancy"]
        evicted = samples["pepnet_cache_evicted_total", (("reason", "policy"), labels)]
        assert evicted == one["evicted_policy"]
    assert samples["pepnet_rows_total", ()] == 600
    assert samples["pepnet_model_version", ()] == 7
    assert samples["pepnet_cache_info", (("dtype", "float32"), ("policy", "gset"))] == 1
    assert types["pepnet_cache_rows"] == "gauge"
    assert types["pepnet_cache_hits_total"] == "counter"
    backend = next(dict(labels) for name, labels in samples if name == "pepnet_backend_info")
    assert (backend["backend"], backend["precision"]) == (stats["backend"]["backend"], "fp32")


def test_the_text_itself(stats: dict[str, Any]) -> None:
    lines = prometheus_text(stats).splitlines()
    assert lines[:3] == [
        "# HELP pepnet_batches_total Batches scored.",
        "# TYPE pepnet_batches_total counter",
        "pepnet_batches_total 3.0",
    ]
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    assert prometheus_text(stats).endswith("\n")
    current = ""
    for line in lines:
        if line.startswith("# TYPE"):
            current = line.split()[2]
        elif not line.startswith("#"):
            assert line.startswith((f"{current} ", f"{current}{{")), line  # samples of one metric stand together


@pytest.mark.parametrize("name", ['a"b', "back\\slash", "new\nline", 'all\\"\n\\n', "émigré {}", "a,b=c"])
def test_labels_are_escaped(name: str, stats: dict[str, Any]) -> None:
    odd = copy.deepcopy(stats)
    table = next(iter(odd["cache"]["tables"]))
    odd["cache"]["tables"] = {name: odd["cache"]["tables"][table]}
    odd["unknown"] = {"tables": {name: 5}, "fields": {}}
    odd["unavailable"] = {"tables": {name: 4}, "fields": {name: 3}}
    samples, _ = parsed(prometheus_text(odd))
    assert samples["pepnet_unknown_ids_total", (("table", name),)] == 5
    assert samples["pepnet_unavailable_ids_total", (("table", name),)] == 4
    assert samples["pepnet_field_unavailable_ids_total", (("field", name),)] == 3
    assert samples["pepnet_cache_hits_total", (("table", name),)] == odd["cache"]["tables"][name]["hits"]


def test_numbers_as_they_are(stats: dict[str, Any]) -> None:
    odd = copy.deepcopy(stats)
    for value in (2**63 + 2**20, 1e-300, 0.1, math.inf, -math.inf, math.nan):
        odd["cache"]["store"]["seconds"] = value
        samples, _ = parsed(prometheus_text(odd))
        np.testing.assert_equal(samples["pepnet_cache_store_seconds_total", ()], float(value))


def test_an_engine_without_a_cache(toy_bundle: Path, toy_table: Callable[..., pa.Table]) -> None:
    with Engine.load(toy_bundle, cache=None) as engine:
        engine.score(toy_table(10, 0))
        samples, _ = parsed(prometheus_text(engine.stats()))
    assert samples["pepnet_rows_total", ()] == 10
    assert not any(name.startswith("pepnet_cache") for name, _ in samples)
