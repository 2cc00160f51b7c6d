"""A publisher when something goes wrong: nothing that followers refuse is appended, nothing touched is lost."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sync_trainer import Trained

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.errors import ConfigError, UpdateError
from pepnet_infer.export.publish.id_book import IdBook
from pepnet_infer.export.publish.publisher import Publisher
from pepnet_infer.export.publish.push_policy import PushPolicy, by_table
from pepnet_infer.rows.gset import Gset
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import MISSING_KEY
from pepnet_infer.sync.delta import DeltaHead, open_delta, read_head, write_delta
from pepnet_infer.sync.follow_config import FollowConfig, Guard
from pepnet_infer.sync.logs.directory import DirectoryLog


class Flaky(DirectoryLog):
    """Says of some appends that they failed: before it is done, or after."""

    fails: str | None = None

    def append(self, delta: Path) -> str:
        if self.fails == "before":
            raise UpdateError("transport", "the log is away")
        position = super().append(delta)
        if self.fails == "after":
            raise UpdateError("transport", "the answer is lost")
        return position


@pytest.fixture
def trained(toy_bundle: Path, tmp_path: Path) -> Trained:
    return Trained(Flaky(tmp_path / "log"), toy_bundle, tmp_path / "state", default=PushPolicy(limit=100))


def bad_dense(bundle: Bundle, how: str) -> dict[str, np.ndarray]:
    dense = bundle.dense()
    if how == "NaN":
        dense["mix.b"][0] = np.nan
    elif how == "missing":
        del dense["mix.b"]
    else:
        dense["mix.b"] = dense["mix.b"][:-1]
    return dense


@pytest.mark.parametrize("how", ["NaN", "missing", "shape"])
def test_weights_that_followers_refuse_are_not_appended(trained: Trained, how: str) -> None:
    trained.train([1, 2, 60])
    with pytest.raises(UpdateError, match=r"mix\.b") as caught:
        trained.publish(dense=bad_dense(trained.bundle, how))
    assert caught.value.reason == "dense"
    assert trained.log.last_delta() is None
    assert trained.publish().rows == 3
    trained.assert_replayed()


@pytest.mark.parametrize("shape", [(2, 6), (4, 6), (3, 5), (3,)])
def test_rows_that_do_not_fit_their_keys(trained: Trained, shape: tuple[int, ...]) -> None:
    trained.train([1, 2, 60])
    with pytest.raises(UpdateError, match=r"user: rows: expected \[3, 6\], got") as caught:
        trained.publisher.publish(lambda table, keys: np.zeros(shape, np.float32))
    assert caught.value.reason == "shape"
    with pytest.raises(UpdateError, match=r"expected a finite number of at most .*, got nan"):
        trained.publisher.publish(lambda table, keys: np.full((3, 6), np.nan, np.float32))
    assert trained.publish().rows == 3
    trained.assert_replayed()


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("fails", ["before", "after"])
def test_an_append_that_failed_or_only_seemed_to(trained: Trained, fails: str, restarts: bool) -> None:
    trained.train([1, 60, 61])
    trained.publish()
    trained.train([1, 62])
    trained.delete([60])
    trained.log.fails = fails
    with pytest.raises(UpdateError, match=r"the log is away|the answer is lost"):
        trained.publish()
    trained.train([61, 62])
    trained.delete([5])
    trained.publisher.save()
    trained.log.fails = None
    if restarts:
        trained.start()
    published = trained.publish()
    assert published.model_version == {"before": 9, "after": 10}[fails]
    trained.assert_replayed()
    assert trained.publish() is None


def test_a_log_is_asked_once_for_its_last_delta(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    trained.train([1, 60, 61])
    trained.log.fails = "after"
    with pytest.raises(UpdateError, match="the answer is lost"):
        trained.publish()
    trained.log.fails = None
    real, asked = DirectoryLog.last_delta, list[Any]()

    def last_delta(log: DirectoryLog) -> Any:
        asked.append(real(log))
        return asked[-1]

    monkeypatch.setattr(DirectoryLog, "last_delta", last_delta)
    assert trained.publish().model_version == 9  # the delta before it is there: two answers could differ
    assert len(asked) == 1


class Number(int):
    """A kind of int of somebody's own."""


def test_a_clock_and_versions_of_other_kinds_of_numbers(
    trained: Trained, toy_bundle: Path, toy_schema: FeatureSchema, tmp_path: Path
) -> None:
    clock = lambda: np.float64(20_000.5)  # noqa: E731
    publisher = Publisher(trained.log, toy_bundle, tmp_path / "numbers", clock=clock)
    publisher.touch("user", np.array([1, 2]))
    published = publisher.publish(lambda table, keys: np.zeros((len(keys), 6), np.float32))
    assert published is not None
    publisher.save()
    last = trained.log.last_delta()
    assert last is not None
    assert last[1].produced_at == 20_000.5
    head = DeltaHead(Number(7), Number(8), Number(7), np.float64(1.5), toy_schema.hash)
    made = write_delta(tmp_path / "by hand", head, {}, Bundle.open(toy_bundle).dense())
    assert read_head(made) == DeltaHead(7, 8, 7, 1.5, toy_schema.hash)


@pytest.mark.parametrize("how", ["deleted", "capped"])
def test_what_a_killed_publisher_pushed_can_go(trained: Trained, how: str) -> None:
    """Its state does not say whether the delta came into the log, and ids of it go in the next pass."""
    if how == "capped":
        trained.options = {"policies": {"user": PushPolicy(limit=100, max_ids=41)}}
        trained.start()
    trained.train([70] * 9)
    trained.log.fails = "after"
    with pytest.raises(UpdateError):
        trained.publish()
    assert 70 in trained.replayed()["user"]
    trained.log.fails = None
    trained.start()
    if how == "deleted":
        trained.delete([70])
    else:
        trained.options = {"policies": {"user": PushPolicy(limit=100, max_ids=1)}}
        trained.publisher.save()
        trained.start()
        trained.train([71] * 50)
    trained.publish()
    if how == "deleted":
        trained.assert_replayed()
    else:
        assert set(trained.replayed()["user"]) == {71}


def test_somebody_else_publishes(trained: Trained, toy_bundle: Path, tmp_path: Path) -> None:
    other = Trained(trained.log, toy_bundle, None)
    trained.train([1])
    trained.publish()
    other.train([2])
    with pytest.raises(UpdateError, match="expected nothing after version 7, got 8: somebody else") as caught:
        other.publish()
    assert caught.value.reason == "publisher"
    trained.train([3])
    assert trained.publish().model_version == 9
    trained.assert_replayed()


def test_a_newer_bundle_in_the_log(trained: Trained, toy_bundle: Path, toy_checkpoint: Any, tmp_path: Path) -> None:
    from pepnet_infer.export.bundle.write_bundle import write_bundle

    trained.log.append_bundle(write_bundle(toy_checkpoint, tmp_path / "newer", model_version=20).path)
    trained.train([1])
    for work in (trained.start, trained.publish):
        with pytest.raises(UpdateError, match="expected nothing after version 7, got 20: somebody else has published"):
            work()
    assert Publisher(trained.log, tmp_path / "newer").model_version == 20


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can become larger than `size`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100, 900, 2600, 3500])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_full_disk(trained: Trained, size: int, restarts: bool) -> None:
    trained.train([1, 60])
    trained.publish()
    trained.train([1, 2, 61])
    trained.delete([3])
    trained.publisher.save()
    with full_disk(size), pytest.raises(UpdateError, match="cannot"):
        trained.publish()
    if restarts:
        trained.start()
    trained.train([2])
    trained.publish()
    trained.assert_replayed()
    assert not [p.name for p in trained.log.path.rglob(".*")]


def test_a_clock_that_goes_back_holds_nothing_for_ever() -> None:
    book = IdBook(PushPolicy(mode="after_expiry", ttl=10.0), Gset(interval=100.0))
    ids = np.array([4], np.uint64)
    for now, pushed in ((1e9, 1), (1e9 + 5, 0), (1e9 + 10, 1), (1000.0, 1), (1005.0, 0), (1010.0, 1)):
        book.touch(ids, None, now)
        chosen = book.choose(now)
        assert len(chosen.keys) == pushed, now
        book.pushed(chosen, now)
    book = IdBook(PushPolicy(limit=1, interval=60.0), Gset(interval=100.0))
    for now, pushed in ((1e9, 1), (1e9 + 1, 0), (1000.0, 1), (1001.0, 0), (1100.0, 1)):
        book.touch(ids, None, now)
        chosen = book.choose(now)
        assert len(chosen.keys) == pushed, now
        assert np.isfinite(chosen.scores).all()
        book.pushed(chosen, now)


def test_forgotten_ids_take_no_memory() -> None:
    book = IdBook(PushPolicy(min_updates=2, unseen_after=5.0), Gset(interval=100.0))
    book.start(np.arange(100, dtype=np.uint64), np.ones(100, np.float32), 0.0)
    for step in range(40):
        book.touch(np.arange(1000, dtype=np.uint64) + np.uint64(1000 * (step + 1)), None, 10.0 * step)
        book.pushed(book.choose(10.0 * step), 10.0 * step)
    assert book.counts() == {"known": 1100, "pending": 1000, "rows": 100}
    assert book.slots() < 8000
    book.touch(np.arange(39_000, 40_000, dtype=np.uint64), None, 391.0)
    assert book.choose(391.0).keys.tolist() == []
    book.touch(np.arange(40_000, 40_010, dtype=np.uint64), None, 392.0)
    assert book.choose(392.0).keys.tolist() == list(range(40_000, 40_010))


def test_policies_by_field_or_table(toy_schema: FeatureSchema) -> None:
    one, two = PushPolicy(limit=3), PushPolicy(mode="after_expiry", ttl=9.0)
    found = by_table(toy_schema, {"user_id": one, "watched": two, "video_id": two}, PushPolicy(limit=5))
    assert found == {"user": one, "video": two, "tag": PushPolicy(limit=5), "page": PushPolicy(limit=5)}
    for names, match in (
        ({"nobody": one}, r"expected fields with a table \(page, tags, .*\), got 'nobody'"),
        ({"age": one}, "expected fields with a table .* got 'age'"),
        ({"watched": one, "video_id": two}, "expected one of table 'video', got different ones for 'watched'"),
    ):
        with pytest.raises(ConfigError, match=match):
            by_table(toy_schema, names)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PushPolicy(mode="always"), "mode: expected one of after_expiry, limit, got 'always'"),  # type: ignore
        (lambda: PushPolicy(limit=0), "limit: expected an integer from 1, got 0"),
        (lambda: PushPolicy(limit=True), "limit: expected an integer from 1, got True"),
        (lambda: PushPolicy(max_ids=0), "max_ids: expected an integer from 1 or None, got 0"),
        (lambda: PushPolicy(interval=float("inf")), "interval: expected a number above 0, got inf"),
        (lambda: PushPolicy(ttl=float("nan")), "ttl: expected .* above 0, got nan"),
        (lambda: PushPolicy(ttl=0.0), "ttl: expected a number above 0, got 0"),
        (lambda: PushPolicy(mode="after_expiry"), "ttl: expected seconds where rows are pushed after their expiry"),
        (lambda: Guard(mean=-0.1), "mean: expected a number from 0, got -0.1"),
        (lambda: Guard(rows=0), "rows: expected an integer from 1, got 0"),
        (lambda: FollowConfig(wait_s=0), "wait_s: expected a number above 0 to 3600, got 0"),
        (lambda: FollowConfig(guard="strict"), "guard: expected a Guard or None, got 'strict'"),  # type: ignore
        (lambda: Gset(beta=0.0), "beta: expected a number above 0 to below 1, got 0.0"),
    ],
)
def test_options_are_checked_when_they_are_made(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_ids_as_a_batch_has_them(trained: Trained) -> None:
    number = trained.bundle.schema.table_by_name["video"].number
    keys = np.array([(number << 48) | 3, 60, MISSING_KEY, (number << 48) | 60], np.uint64)
    for i in (3, 60):
        trained.rows["video"][i] = np.full(5, i, np.float32)
    trained.publisher.touch("video", keys, np.array([True, False, True, True]))
    trained.publisher.touch("video", np.array([], np.float64))
    assert trained.publisher.stats()["touched"] == 3
    assert trained.publish().rows == 2
    trained.assert_replayed()
    for ids, match in (
        (np.array([1, -1]), r"video: ids\[1\]: expected an id below 2\^48 or a key of table number 1, got -1"),
        (np.array([1 << 50]), "got 1125899906842624"),
        (np.array([1.5]), "expected integer ids"),
        (np.array([[1]]), "expected integer ids"),
    ):
        with pytest.raises(UpdateError, match=match):
            trained.publisher.touch("video", ids)
    with pytest.raises(UpdateError, match=r"positive: expected bool \[2\], got int64 \[2\]"):
        trained.publisher.touch("video", np.array([1, 2]), np.array([1, 0]))
    with pytest.raises(UpdateError, match="expected a table of the bundle, got 'videos'"):
        trained.publisher.touch("videos", np.array([1]))
    assert trained.publish() is None


def test_scores_are_the_formula(trained: Trained, tmp_path: Path) -> None:
    """S ← (1-β)·S + β·(r·c⁺ + c⁻) per interval, from the bundle's score on, whatever calls the touches come in."""
    from pepnet_infer.bundle.table_file import open_table

    scoring = Gset(beta=0.25, r=2.0, interval=100.0)
    log = DirectoryLog(tmp_path / "other", create=True)
    trained = Trained(log, trained.path, tmp_path / "scored", default=PushPolicy(limit=100), scoring=scoring)
    expected = float(open_table(trained.bundle.table_paths["user"]).scores[7])
    random = np.random.default_rng(1)
    for _ in range(12):
        later = int(random.integers(0, 3))
        trained.now += 100.0 * later
        expected *= 0.75**later
        good = random.random(random.integers(1, 6)) < 0.5
        for part in np.array_split(good, 2):
            trained.publisher.touch("user", np.full(len(part), 7), part)
        expected += 0.25 * float(np.where(good, 2.0, 1.0).sum())
        trained.publish()
        delta = open_delta(log.read("", most=100)[-1].path, trained.bundle.schema, trained.bundle.network)
        assert float(delta.rows["user"].scores[0]) == pytest.approx(expected, rel=1e-6)
        trained.start()
    assert math.isfinite(expected)


def test_weights_and_default_rows_of_a_pass_that_failed_go_with_the_next(trained: Trained) -> None:
    trained.train([1])
    dense, default = (
        trained.bundle.dense(),
        np.arange(trained.bundle.schema.table_by_name["user"].dim, dtype=np.float32),
    )
    trained.log.fails = "before"  # type: ignore[attr-defined]
    with pytest.raises(UpdateError, match="the log is away"):
        trained.publish(dense=dense, defaults={"user": default})
    with pytest.raises(UpdateError, match=r"mix\.b"):  # never appended, and not kept either
        trained.publish(dense=bad_dense(trained.bundle, "NaN"))
    trained.log.fails = None  # type: ignore[attr-defined]
    assert trained.publish() is not None
    delta = open_delta(trained.log.read("")[-1].path, trained.bundle.schema, trained.bundle.network)
    assert delta.dense is not None
    np.testing.assert_array_equal(delta.dense["mix.b"], dense["mix.b"])
    np.testing.assert_array_equal(delta.rows["user"].default, default)
    assert trained.publish() is None
