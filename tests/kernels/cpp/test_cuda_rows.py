"""Rows on the device, by the CUDA kernels run on the CPU: scores are those of rows from the host, bit for bit."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cuda_checks as checks
import cuda_rows_checks
import numpy as np
import pytest
from held_call import call_under_way
from sync_world import World, scored_meanwhile

from pepnet_infer import Engine
from pepnet_infer._kernels import CudaFeatures, CudaLibrary
from pepnet_infer.backends.cuda import features as cuda_features
from pepnet_infer.backends.cuda.backend import VARIABLE
from pepnet_infer.backends.cuda.rows import WAYS, DeviceRows, FieldOnDevice, Place
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.encode.features import Bag, Features
from pepnet_infer.errors import BackendError, ConfigError, SchemaError, StoreError
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.rows.protocols import Store
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.ids import MISSING_KEY, Keys, make_keys
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.sync.follow_config import FollowConfig
from pepnet_infer.sync.logs.directory import DirectoryLog

Batch = dict[str, Any]
Load = Callable[..., Engine]


@pytest.fixture
def load(built: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """`load(rows, …)` → the toy's engine with rows on the device, on the host for None."""
    monkeypatch.setenv(VARIABLE, str(built))
    engines: list[Engine] = []

    def loaded(rows: str | None, precision: str = "fp32", **other: Any) -> Engine:
        options = {} if rows is None else {"rows": rows}
        engines.append(
            Engine.load(toy_bundle, backend="native", device="cuda", precision=precision, options=options, **other)
        )
        return engines[-1]

    yield loaded
    for engine in engines:
        engine.close()


def same(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(one.values, other.values)
    assert (one.unknown, one.unavailable) == (other.unknown, other.unavailable)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_kind_of_field(library: CudaLibrary, precision: str) -> None:
    counts = (260, 1, 7, 20) if precision == "fp32" else (1, 7, 20)  # of 260 rows more lacks than is told at once
    cuda_rows_checks.rows_on_device(library, precision, counts)


def test_rows_on_a_device_that_is_not_the_threads(library: CudaLibrary) -> None:
    cuda_rows_checks.rows_on_device(library, "fp32", (7,), gpu=1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("room", ["1MiB", "4KiB"])  # for all rows; for so few that sets are full all the time
def test_scores_are_those_of_rows_from_the_host(
    load: Load, toy_batch: Callable[..., Batch], room: str, precision: str
) -> None:
    host, device = load(None, precision), load(room, precision)
    misses = []
    for seed in (0, 1, 2, 0, 1, 2):
        batch = toy_batch(1 + 4 * seed, seed)
        same(device.score(batch), host.score(batch))
        misses.append(device.stats()["cache"]["device"]["total"]["misses"])
    said = device.stats()["cache"]["device"]
    encoded = [host.encode(toy_batch(1 + 4 * seed, seed)) for seed in (0, 1, 2)]
    keys = sum(sum(map(len, one.ids.values())) + sum(len(bag.keys) for bag in one.bags.values()) for one in encoded)
    assert said["total"]["keys"] == 2 * keys
    assert said["total"]["negative_hits"] > 0
    for one in said["fields"].values():
        assert one["keys"] == one["hits"] + one["misses"] + one["negative_hits"]
    assert (misses[-1] == misses[2]) == (room == "1MiB")
    keys_of_page = said["fields"]["page"]["keys"]
    assert f'pepnet_device_field_lookups_total{{field="page"}} {keys_of_page}' in device.metrics()


def test_what_was_scored_before_lacks_nothing(load: Load, toy_batch: Callable[..., Batch]) -> None:
    engine, batch = load("1MiB"), toy_batch(20)
    first = engine.score(batch)
    before = engine.stats()["cache"]
    same(engine.score(batch), first)
    after = engine.stats()["cache"]
    assert after["device"]["total"]["misses"] == before["device"]["total"]["misses"]
    assert after["total"] == before["total"]  # the host was asked nothing


def test_a_request_with_fields_in_common(load: Load, toy_batch: Callable[..., Batch]) -> None:
    """Shared rows are patched into all rows, and their ids count once."""
    host, device = load(None), load("1MiB")
    for seed in range(3):
        features = host.encode(toy_batch(9, seed))
        common = {"user_id", "watched", "age"} & {*features.ids, *features.bags, *features.dense}
        one, other = Features(1), Features(9)
        for kind in ("ids", "bags", "dense"):
            for name in getattr(features, kind):
                source = features.select([4]) if name in common else features
                getattr(one if name in common else other, kind)[name] = getattr(source, kind)[name]
        for _ in range(2):
            inputs = host._open().assembler.inputs(other, one)
            scorer = device._open().features
            assert scorer is not None
            values, unknown, unavailable = scorer.score(other, one)
            np.testing.assert_array_equal(values, host._open().backend.run(inputs))
            assert (unknown, unavailable) == (inputs.unknown, {})


def test_keys_with_gaps_or_at_odd_addresses_are_copied(load: Load, toy_batch: Callable[..., Batch]) -> None:
    device = load("1MiB")
    features = device.encode(toy_batch(9))
    expected = device.score_features(features)
    (one, keys), (other, same_keys) = list(features.ids.items())[:2]
    features.ids[one] = np.repeat(keys, 2)[::2]
    features.ids[other] = np.frombuffer(b"x" + same_keys.tobytes(), np.uint64, offset=1)
    assert not features.ids[other].flags.aligned
    same(device.score_features(features), expected)


def test_more_rows_than_one_call_takes(
    load: Load, toy_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_features, "MOST_ROWS", 8)
    host, device, batch = load(None), load("1MiB"), toy_batch(21)
    for _ in range(2):
        same(device.score(batch), host.score(batch))
    assert device.score(toy_batch(0)).values.shape == (0, len(device.tasks))


def test_ids_of_all_sizes(load: Load, toy_batch: Callable[..., Batch]) -> None:
    """Ids over 32 bits, those that are none, those of other tables, and bags longer than a warp."""
    host, device = load(None), load("1MiB")
    features = host.encode(toy_batch(4))
    schema = host.schema
    field, bag = next(iter(features.ids)), next(iter(features.bags))
    number = schema.table_by_name[schema.field_by_name[field].table or ""].number
    others = next(t.number for t in schema.tables if t.number != number)
    features.ids[field] = np.array(
        [make_keys(number, np.array([3], np.uint64))[0], make_keys(number, np.array([1 << 40], np.uint64))[0],
         MISSING_KEY, make_keys(others, np.array([3], np.uint64))[0]], np.uint64
    )  # fmt: skip
    number = schema.table_by_name[schema.field_by_name[bag].table or ""].number
    keys = make_keys(number, np.arange(150, dtype=np.uint64) % 11)
    features.bags[bag] = Bag(keys, np.array([0, 33, 33, 34, 150]))
    for _ in range(3):
        one, other = device.score_features(features), host.score_features(features)
        np.testing.assert_array_equal(one.values, other.values)
        # A key of another table has a row of another width in the store: the device does not ask for it.
        assert sum(one.unknown.values()) == sum(other.unknown.values()) + sum(other.unavailable.values()) == 3


def test_offsets_out_of_order_are_refused(load: Load, toy_batch: Callable[..., Batch]) -> None:
    device = load("1MiB")
    features = device.encode(toy_batch(3))
    name, bag = next(iter(features.bags.items()))
    for offsets in ([0, 2, 1, 2], [0, 1, 2, len(bag.keys) + 1], [-1, 0, 1, 2]):
        features.bags[name] = Bag(bag.keys, np.array(offsets))
        with pytest.raises(BackendError, match=r"features: field \d+: expected offsets in order"):
            device.score_features(features)
    del features.bags[name]
    with pytest.raises(SchemaError, match=f"column '{name}': expected every field of the schema"):
        device.score_features(features)


@pytest.mark.parametrize("given", ["dense as ids", "ids as dense", "bag as ids", "ids as bag"])
def test_a_field_of_another_kind_is_refused(load: Load, toy_batch: Callable[..., Batch], given: str) -> None:
    device = load("1MiB")
    features = device.encode(toy_batch(3))
    match given:
        case "dense as ids":
            name = next(iter(features.dense))
            features.ids[name] = np.zeros(len(features.dense.pop(name)), np.uint64)
        case "ids as dense":
            name = next(iter(features.ids))
            features.dense[name] = np.zeros(len(features.ids.pop(name)), np.float32)
        case "bag as ids":
            name = next(iter(features.bags))
            del features.bags[name]
            features.ids[name] = np.zeros(3, np.uint64)
        case "ids as bag":
            name = next(iter(features.ids))
            features.bags[name] = Bag(features.ids.pop(name), np.arange(4))
    with pytest.raises(BackendError, match=r"features: field \d+: expected (a number|a bag of ids|an id) for each row"):
        device.score_features(features)


def test_rows_that_change_are_not_served_from_before(load: Load, toy_batch: Callable[..., Batch]) -> None:
    """Updates and deletions of the cache reach the device's copies."""
    host, device, batch = load(None), load("1MiB"), toy_batch(15)
    random, table = np.random.default_rng(0), next(t for t in host.schema.tables)
    for version in range(1, 5):
        same(device.score(batch), host.score(batch))
        ids = random.choice(50, 20, replace=False)
        rows = random.standard_normal((20, table.dim), dtype=np.float32)
        versions = np.full(20, version, np.uint64)
        for engine in (host, device):
            assert engine.cache is not None
            engine.cache.apply(table.name, ids[:15], rows[:15], versions[:15])
            engine.cache.delete(table.name, ids[15:], versions[15:])
    same(device.score(batch), host.score(batch))


class Flaky:
    """A store that answers from the second question on."""

    def __init__(self, store: Store) -> None:
        self.store, self.questions = store, 0

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        self.questions += 1
        if self.questions <= 4:  # one a width
            raise StoreError("away")
        return self.store.get_many(keys, dim)


def test_default_rows_in_the_place_of_what_did_not_come_do_not_stay(
    load: Load, toy_bundle: Path, toy_batch: Callable[..., Batch]
) -> None:
    bundle = Bundle.open(toy_bundle)
    store = Flaky(MmapStore(bundle.table_paths, bundle.schema.table_by_name))
    device, batch = load("1MiB", store=store, cache=CacheConfig(warm=False)), toy_batch(12)
    expected = load(None).score(batch)
    down = device.score(batch)
    assert set(down.unavailable) == {"user_id", "video_id", "watched", "tags", "page"}
    assert (down.unknown, expected.unavailable) == ({}, {})
    for _ in range(2):
        same(device.score(batch), expected)


def test_an_engine_that_follows(load: Load, toy_checkpoint: Checkpoint, tmp_path: Path, toy_batch: Any) -> None:
    """Every batch is of one version, while versions come and threads score."""
    world, log = World(toy_checkpoint, tmp_path, seed=3), DirectoryLog(tmp_path / "log", create=True)
    engine = load("1MiB", cache=CacheConfig(policy="lru", capacity="642KiB"))
    follower = engine.follow(log, FollowConfig(name="device", wait_s=0.05, guard=None))
    batches = [toy_batch(10, seed) for seed in range(2)]

    def publish() -> None:
        for number in range(10):
            log.append(world.step(dense=number % 3 == 0))
            assert follower.wait_for(world.version, 60)

    seen = scored_meanwhile(engine, batches, publish)
    assert len({version for _, version, _ in seen}) > 3
    for number, version, values in seen:
        np.testing.assert_allclose(values, world.scores(version, batches[number]), atol=5e-6)
    assert engine.stats()["cache"]["device"]["dropped"] > 0


def test_a_call_of_an_earlier_version_leaves_none_of_its_rows(
    load: Load, toy_checkpoint: Checkpoint, tmp_path: Path, toy_batch: Any
) -> None:
    world, log = World(toy_checkpoint, tmp_path, seed=5), DirectoryLog(tmp_path / "log", create=True)
    engine, batch = load("1MiB"), toy_batch(20)
    follower = engine.follow(log, FollowConfig(name="device", wait_s=0.05, guard=None))
    first = world.version
    with call_under_way(engine, batch) as end, call_under_way(engine, batch):
        log.append(world.step(dense=False))
        assert follower.wait_for(world.version, 60)
        # It asks the host for what the new version changed.
        np.testing.assert_allclose(end().values, world.scores(first, batch), atol=5e-6)
        for _ in range(2):
            np.testing.assert_allclose(engine.score(batch).values, world.scores(world.version, batch), atol=5e-6)
    log.append(world.step(dense=False))
    assert follower.wait_for(world.version, 60)
    np.testing.assert_allclose(engine.score(batch).values, world.scores(world.version, batch), atol=5e-6)


def test_what_was_asked_for_before_a_change_does_not_come_in(library: CudaLibrary) -> None:
    rows = DeviceRows(library, {4: 64}, False, 0)
    generation, new = rows.generation, some(4, [1, 2, 3])
    assert cuda_rows_checks.insert(rows, new, generation)
    rows.drop(4, new.keys[:1])
    assert not cuda_rows_checks.insert(rows, new, generation)
    assert cuda_rows_checks.insert(rows, new, rows.generation)
    said = rows.stats()
    assert (said["inserted"], said["dropped"], said["outdated"], said["entries"]) == (6, 1, 3, 64)
    rows.clear()
    assert not cuda_rows_checks.insert(rows, new, generation + 1)


def test_widths_that_are_not_there(library: CudaLibrary, load: Load) -> None:
    with pytest.raises(BackendError, match="rows: expected a width above 0 and 8 to"):
        DeviceRows(library, {4: 7}, False, 0)
    with pytest.raises(BackendError, match="rows: expected one of the widths there are, got 5"):
        DeviceRows(library, {4: 8}, False, 0).drop(5, np.zeros(1, np.uint64))
    with pytest.raises(BackendError, match=r"options\.rows: expected at least about \d+ bytes, got 300"):
        load("300")
    with pytest.raises(ConfigError, match=r"options\.rows: expected bytes, .*, got 'much'"):
        load("much")
    with pytest.raises(BackendError, match=r"options\.rows: expected rows through a cache on the host, got MmapStore"):
        load("1MiB", cache=None)


class Probe:
    """One set of rows, and a model that reads them: which are there shows in what it lacks. Reading counts as a use."""

    def __init__(self, library: CudaLibrary, by_score: bool) -> None:
        self.rows = DeviceRows(library, {4: WAYS}, by_score, 0)
        self.model = checks.model_of(library, checks.config_of(widths=(4, 1, 1)), "fp32")
        fields = [FieldOnDevice("id", 4, 0, (Place("general", 0),))]
        fields += [FieldOnDevice("dense", 1, 0, (Place(name, 0),)) for name in ("domain", "prior")]
        self.model.attach(self.rows, fields)

    def read(self, keys: list[int]) -> list[int]:
        """Returns which of the keys are there."""
        numbers, count = np.zeros(len(keys), np.float32), len(keys)
        dense = [(field, None, None, numbers, False) for field in (1, 2)]
        given = CudaFeatures(
            [(0, np.array(keys, np.uint64), None, None, False), *dense], [np.zeros(4, np.float32), None, None], count
        )
        scores = np.zeros((count, checks.TASKS), np.float32)
        waiting = self.model.score(given, 0, count, scores, np.zeros(3, np.uint32))
        lacking = [] if waiting is None else (waiting.lacking // 3).tolist()
        return [key for i, key in enumerate(keys) if i not in lacking]

    def insert(self, keys: list[int], **given: Any) -> None:
        high = np.array(given.get("high", [False] * len(keys)))
        assert cuda_rows_checks.insert(self.rows, some(4, keys, **given), self.rows.generation, high)


@pytest.mark.parametrize("fails", [False, True])
def test_scores_that_wait_are_finished_once(library: CudaLibrary, built: Path, fails: bool) -> None:
    config, fields = cuda_rows_checks.small_fields()
    host = cuda_rows_checks.Host(fields, 50)
    device = cuda_rows_checks.OnDevice(library, checks.model_of(library, config, "fp32"), host, {7: 400, 40: 400})
    batch = cuda_rows_checks.batch_of(fields, host, 5, 50, seed=1)
    scores, unknown = np.empty((5, checks.TASKS), np.float32), np.zeros(len(fields), np.uint32)
    waiting = device.model.score(device.given(batch), 0, 5, scores, unknown)
    assert waiting is not None
    widths = [fields[field].width for field in waiting.lacking % len(fields)]
    begins = np.concatenate([[0], np.cumsum(widths)]).astype(np.uint32)
    patches = waiting.lacking, begins[:-1], np.zeros(begins[-1], np.float32)
    if fails:
        ctypes.CDLL(str(built)).pepnet_cuda_fail()
        with pytest.raises(BackendError, match="a launch failed"):
            waiting.finish(*patches)
    else:
        waiting.finish(*patches)
    with pytest.raises(BackendError, match="scores: expected some that wait, got those of a call that is over"):
        waiting.finish(*patches)
    with waiting:
        assert len(waiting.lacking) == len(widths)
    with pytest.raises(ValueError, match="scores: expected some that wait, got those of a call that is over"):
        waiting.finish(*patches)
    plain = checks.model_of(library, config, "fp32").run(*host.inputs(config.inputs, batch))
    np.testing.assert_array_equal(device.score(batch), plain)


def test_the_row_that_was_read_longest_ago_makes_room(library: CudaLibrary) -> None:
    random, probe, used = np.random.default_rng(1), Probe(library, by_score=False), list[int]()
    for _ in range(60):
        key = int(random.integers(1, 14))
        there = probe.read([key]) == [key]
        assert there == (key in used)
        if there:
            used.remove(key)
        else:
            probe.insert([key])
            used = used[-(WAYS - 1) :]
        used.append(key)


def test_the_row_of_the_lowest_score_makes_room(library: CudaLibrary) -> None:
    probe, keys = Probe(library, by_score=True), list(range(1, 9))
    probe.insert(keys, scores=[5.0, 1.0, 3.0, 2.0, 9.0, 8.0, 7.0, 6.0])
    probe.read([2])  # how long ago does not matter
    probe.insert([9], scores=[0.5])
    assert probe.read([*keys, 9]) == [1, 3, 4, 5, 6, 7, 8, 9]
    probe.insert([10, 11], scores=[4.0, 4.5])  # one after another: 9 goes, then 4
    assert probe.read([*keys, 9, 10, 11]) == [1, 3, 5, 6, 7, 8, 10, 11]


def test_rows_of_high_priority_stay_until_they_expire(library: CudaLibrary) -> None:
    probe, keys, now = Probe(library, by_score=True), list(range(1, 9)), time.time()
    probe.insert(keys, high=[True] * 8, scores=[1.0] * 8, expires=[np.inf] * 7 + [now + 3.2])
    probe.insert([9], scores=[5.0])
    assert probe.read([*keys, 9]) == keys
    time.sleep(4.4)  # whole seconds
    assert probe.read(keys) == keys[:7]
    probe.insert([9], scores=[5.0])
    assert probe.read([*keys, 9]) == [*keys[:7], 9]


def test_a_row_that_comes_again_takes_its_own_place(library: CudaLibrary) -> None:
    probe, keys = Probe(library, by_score=False), list(range(1, 9))
    probe.insert(keys)
    probe.insert([3, 3 + 100], scores=[1.0, 1.0])
    assert len(probe.read([*keys, 103])) == WAYS
    probe.rows.drop(4, np.array([3, 5], np.uint64))
    assert {3, 5}.isdisjoint(probe.read([*keys, 103]))
    probe.insert([201, 202])
    assert {201, 202} <= set(probe.read([*keys, 103, 201, 202]))
    assert len(probe.read([*keys, 103, 201, 202])) == WAYS


def some(width: int, keys: list[int], **given: Any) -> RowBatch:
    count = len(keys)
    return RowBatch.of(
        np.repeat(np.array(keys, np.float32)[:, None], width, axis=1),
        keys=np.array(keys, np.uint64),
        scores=np.array(given.get("scores", [np.nan] * count), np.float32),
        expires=np.array(given.get("expires", [np.inf] * count)),
    )
