"""The publisher: policies against a plain book of ids, and its deltas against the trainer's own state."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import ended, fork
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sync_world import PATIENCE_S, World

from pepnet_infer import CacheConfig, Engine, UpdateError
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.export.publish.id_book import IdBook
from pepnet_infer.export.publish.publisher import Publisher
from pepnet_infer.export.publish.push_policy import PushPolicy
from pepnet_infer.rows.gset import Gset
from pepnet_infer.sync.delta import open_delta
from pepnet_infer.sync.follow_config import FollowConfig
from pepnet_infer.sync.logs.directory import DirectoryLog

Batch = dict[str, Any]
BETA, R, DAY = 0.1, 3.0, 100.0


class Plain:
    """One id at a time, in plain Python."""

    def __init__(self, policy: PushPolicy) -> None:
        self.policy = policy
        self.ids: dict[int, dict[str, Any]] = {}

    def touch(self, ids: list[int], positive: list[bool], now: float) -> None:
        for i, good in zip(ids, positive, strict=True):
            known = self.ids.setdefault(
                i, {"updates": 0, "pushes": [], "expires": -math.inf, "row": False, "hits": [], "gone": False}
            )
            known.update(pending=True, touched=now, gone=False)
            known["updates"] += 1
            known["hits"].append((now // DAY, R if good else 1.0))

    def score(self, i: int, now: float) -> float:
        return sum(BETA * (1 - BETA) ** (now // DAY - day) * weight for day, weight in self.ids[i]["hits"])

    def publish(self, now: float) -> tuple[set[int], set[int]]:
        policy, pushed, gone = self.policy, set(), set()
        for i, known in self.ids.items():
            if known["gone"] or (
                known["updates"] < policy.min_updates and known["touched"] <= now - policy.unseen_after
            ):
                gone.add(i)
            elif known["pending"] and known["updates"] >= policy.min_updates:
                recent = [at for at in known["pushes"] if at // policy.interval == now // policy.interval]
                if policy.mode == "limit" and len(recent) < policy.limit:
                    pushed.add(i)
                if policy.mode == "after_expiry" and (not known["row"] or known["expires"] <= now):
                    pushed.add(i)
        if policy.max_ids is not None:
            rows = {i for i, known in self.ids.items() if known["row"] and i not in gone} | pushed
            ranked = sorted(rows, key=lambda i: (self.score(i, now), i))
            cut = max(0, len(rows) - policy.max_ids)
            lowest = ranked[:cut]
            if 0 < cut < len(ranked):  # who goes of two that are level is a matter of rounding
                below, above = (self.score(i, now) for i in ranked[cut - 1 : cut + 1])
                assume(above - below > 1e-9 * above)
            pushed -= set(lowest)
            gone |= set(lowest)
        told = {i for i in gone if self.ids[i]["row"]}
        for i in pushed:
            self.ids[i]["pushes"].append(now)
            self.ids[i].update(pending=False, row=True, expires=now + policy.ttl)
        for i in gone:
            del self.ids[i]
        return pushed, told


policies = st.builds(
    PushPolicy,
    mode=st.just("limit"),
    limit=st.integers(1, 3),
    interval=st.sampled_from([5.0, 20.0]),
    max_ids=st.none() | st.integers(1, 6),
    min_updates=st.integers(1, 3),
    unseen_after=st.sampled_from([math.inf, 30.0]),
) | st.builds(
    PushPolicy, mode=st.just("after_expiry"), ttl=st.sampled_from([4.0, 25.0]), max_ids=st.none() | st.integers(2, 6)
)
passes = st.lists(
    st.tuples(
        st.floats(0, 12).map(lambda s: round(s, 1)),
        st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=8),
        st.lists(st.integers(0, 9), max_size=1),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=150, deadline=None)
@given(policies, passes, st.booleans())
def test_policies_one_id_at_a_time(policy: PushPolicy, steps: list[Any], restarts: bool) -> None:
    book, plain, now = IdBook(policy, Gset(BETA, R, DAY)), Plain(policy), 1000.0
    for wait, touched, deleted in steps:
        now += wait
        ids, positive = [i for i, _ in touched], [good for _, good in touched]
        book.touch(np.array(ids, np.uint64), np.array(positive, bool), now)
        plain.touch(ids, positive, now)
        for i in deleted:
            if i in plain.ids:
                book.delete(np.array([i], np.uint64))
                plain.ids[i].update(gone=True, pending=False)
        chosen = book.choose(now)
        scores = {int(key): float(score) for key, score in zip(chosen.keys, chosen.scores, strict=True)}
        expected = {i: plain.score(i, now) for i in plain.ids}
        pushed, gone = plain.publish(now)
        assert set(chosen.keys.tolist()) == pushed
        assert set(chosen.gone.tolist()) == gone
        assert scores == pytest.approx({i: expected[i] for i in pushed}, rel=1e-5)
        book.pushed(chosen, now)
        if restarts:
            saved = book.to_tensors()
            book = IdBook(policy, Gset(BETA, R, DAY))
            book.from_tensors(saved)


class Trainer:
    """Rows of `World`'s tables that change, and a publisher that is told."""

    def __init__(self, world: World, log: DirectoryLog, bundle: Path, state: Path | None, **options: Any) -> None:
        self.world, self.now = world, 10_000.0
        self.publisher = Publisher(log, bundle, state, clock=lambda: self.now, **options)
        before = world.checkpoints[world.version]
        self.rows = {
            name: {int(k) & (2**48 - 1): row for k, row in zip(table.keys, table.rows, strict=True)}
            for name, table in before.tables.items()
        }

    def train(self, count: int = 12) -> None:
        for name, table in self.rows.items():
            dim = self.world.checkpoints[7].tables[name].rows.shape[1]
            ids = self.world.random.integers(0, 55, count)
            for i in ids:
                table[int(i)] = self.world.random.standard_normal(dim).astype(np.float32)
            self.publisher.touch(name, ids, self.world.random.random(count) < 0.3)

    def read(self, table: str, keys: np.ndarray) -> np.ndarray:
        return np.array([self.rows[table][int(k) & (2**48 - 1)] for k in keys], np.float32)

    def publish(self, **more: Any) -> Any:
        return self.publisher.publish(self.read, **more)

    def checkpoint(self, version: int) -> None:
        """Makes the trainer's state a version of the world's."""
        from dataclasses import replace

        from sync_world import _table

        before = self.world.checkpoints[7]
        schema = before.schema.table_by_name
        self.world.checkpoints[version] = replace(
            before,
            tables={
                name: _table(schema[name].number, rows, dict.fromkeys(rows, 0.0), before.tables[name].default)
                for name, rows in self.rows.items()
            },
        )


@pytest.fixture
def world(toy_checkpoint: Checkpoint, tmp_path: Path) -> World:
    return World(toy_checkpoint, tmp_path)


def replayed(world: World, log: DirectoryLog) -> dict[str, dict[int, np.ndarray]]:
    """What the deltas of a log lead to, without the code of followers."""
    rows: dict[str, dict[int, np.ndarray]] = {
        name: {int(k): row for k, row in zip(table.keys, table.rows, strict=True)}
        for name, table in world.checkpoints[7].tables.items()
    }
    version = 7
    for entry in log.read("", most=10_000):
        delta = open_delta(entry.path, world.checkpoints[7].schema, world.checkpoints[7].network)
        assert delta.head.base_version == version
        version = delta.head.model_version
        for name, changed in delta.rows.items():
            for key, row, dead in zip(changed.keys, changed.rows, ~changed.found, strict=True):
                rows[name].pop(int(key), None) if dead else rows[name].update({int(key): row})
    return rows


def same(trainer: Trainer, found: dict[str, dict[int, np.ndarray]]) -> bool:
    return all(
        {k & (2**48 - 1) for k in found[name]} == set(rows)
        and all(np.array_equal(row, rows[k & (2**48 - 1)]) for k, row in found[name].items())
        for name, rows in trainer.rows.items()
    )


def test_followers_end_where_the_trainer_is(
    world: World, toy_bundle: Path, toy_batch: Callable[..., Batch], tmp_path: Path
) -> None:
    log = DirectoryLog(tmp_path / "log", create=True)
    trainer = Trainer(world, log, toy_bundle, tmp_path / "state", default=PushPolicy(limit=1, interval=60))
    for number in range(7):
        trainer.now += 25
        trainer.train()
        published = trainer.publish(dense=world.checkpoints[7].dense if number == 3 else None)
        assert published.model_version == 8 + number
    assert trainer.publisher.stats()["held"]["limit"] > 0
    assert not same(trainer, replayed(world, log))  # some are held back
    trainer.publish(everything=True)
    assert same(trainer, replayed(world, log))
    assert trainer.publish() is None
    last = trainer.publisher.model_version
    trainer.checkpoint(last)
    with Engine.load(toy_bundle, backend="native", cache=CacheConfig("gset", "1MiB"), threads=1) as engine:
        engine.follow(log, FollowConfig(guard=None))
        scores = engine.score(toy_batch(80))
        assert scores.model_version == last
        np.testing.assert_array_equal(scores.values, world.scores(last, toy_batch(80)))
    stats = trainer.publisher.stats()
    assert (stats["passes"], stats["dense"], stats["touched"]) == (8, 1, 7 * 4 * 12)
    assert stats["coalesced"] > 0


def test_a_state_is_of_one_process(world: World, toy_bundle: Path, tmp_path: Path) -> None:
    log, state = DirectoryLog(tmp_path / "log", create=True), tmp_path / "state"
    Trainer(world, log, toy_bundle, state)
    Trainer(world, log, toy_bundle, state)  # of the same process: it knows what it does
    code = "import sys; from pepnet_infer.export.publish.publisher_state import State; from pathlib import Path\n"
    code += "State(Path(sys.argv[1])); print('mine', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code]
    other = subprocess.run([*command, str(state)], capture_output=True, text=True, check=False)
    assert "expected a state that no other process uses" in other.stderr
    process = subprocess.Popen([*command, str(tmp_path / "new")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"mine\n"
    with pytest.raises(UpdateError, match="no other process uses") as caught:
        Trainer(world, log, toy_bundle, tmp_path / "new")
    assert caught.value.reason == "state"
    process.kill()
    process.communicate()
    Trainer(world, log, toy_bundle, tmp_path / "new")  # a lock goes with who had it


def test_a_publisher_over_redis_feeds_an_engine_on_onnxruntime(
    world: World, redis_server: Any, toy_bundle: Path, toy_batch: Callable[..., Batch], tmp_path: Path
) -> None:
    from redis_logs import NAMES

    from pepnet_infer.sync.logs.redis import RedisLog

    name, batch = next(NAMES), toy_batch(40)
    with (
        RedisLog(redis_server.url, name, spool=tmp_path / "theirs", create=True) as theirs,
        RedisLog(redis_server.url, name, spool=tmp_path / "ours") as ours,
        Engine.load(toy_bundle, backend="onnxruntime", threads=1, cache=CacheConfig("lru", "1MiB")) as engine,
    ):
        trainer = Trainer(world, theirs, toy_bundle, tmp_path / "state")
        follower = engine.follow(ours, FollowConfig(wait_s=0.05, guard=None))
        dense = {name: 1.5 * array for name, array in world.checkpoints[7].dense.items()}
        trainer.train()
        trainer.publish(dense=dense, onnx=True)
        assert follower.wait_for(8, PATIENCE_S)
        trainer.checkpoint(8)
        world.checkpoints[8] = dataclasses.replace(world.checkpoints[8], dense=dense)
        scores = engine.score(batch)
        np.testing.assert_allclose(scores.values, world.scores(8, batch), atol=1e-5)
        assert engine.stats()["sync"]["refused"] == {}


def test_a_restart_forgets_nothing_and_notices_others(world: World, toy_bundle: Path, tmp_path: Path) -> None:
    log, state = DirectoryLog(tmp_path / "log", create=True), tmp_path / "state"
    policy = PushPolicy(limit=1, interval=1e6)
    trainer = Trainer(world, log, toy_bundle, state, default=policy)
    for _ in range(3):
        trainer.train()
        trainer.publish()
    trainer.train()
    trainer.publisher.save()
    pending = trainer.publisher.stats()["tables"]
    assert any(table["pending"] for table in pending.values())
    trainer.publisher = Publisher(log, toy_bundle, state, default=policy, clock=lambda: trainer.now)
    assert trainer.publisher.stats()["tables"] == pending
    trainer.publish(everything=True)
    assert same(trainer, replayed(world, log))
    with pytest.raises(UpdateError, match="publish from the newest bundle, or with the state") as caught:
        Publisher(log, toy_bundle)
    assert caught.value.reason == "publisher"


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_at_any_moment(kills: int, world: World, toy_bundle: Path, tmp_path: Path) -> None:
    """The trainer's rows are those of its last `save`; whatever was touched before it comes to the log."""
    log, state = DirectoryLog(tmp_path / "log", create=True), tmp_path / "state"
    policy = PushPolicy(limit=1, interval=50)
    trainer = Trainer(world, log, toy_bundle, state, default=policy)
    trainer.publisher.save()
    random = np.random.default_rng(3)
    for _ in range(kills):
        trainer.now += 20
        trainer.train(4)
        trainer.publisher.save()
        read, write = os.pipe()

        def publish(write: int = write) -> None:
            os.write(write, b"1")
            trainer.publish()

        child = fork(publish)
        os.close(write)
        os.read(read, 1)
        os.close(read)
        _wait(float(random.random()) * 0.15)
        os.kill(child, signal.SIGKILL)
        assert ended(child) in (0, -signal.SIGKILL)
        trainer.publisher = Publisher(log, toy_bundle, state, default=policy, clock=lambda: trainer.now)
    trainer.publish(everything=True)
    assert same(trainer, replayed(world, log))


def _wait(seconds: float) -> None:
    import time

    time.sleep(seconds)
