"""A log of exposures as requests to a cache: which rows of a bundle each reads, and which of them were there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.bench.cache.policies import GSET
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.encode.features import Bag, Features
from pepnet_infer.errors import SchemaError
from pepnet_infer.export.data.source import Source, refuse_leakage
from pepnet_infer.rows.cache.config import Policy
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.ids import MISSING_KEY, Keys

#: What an evicted row is when its id comes back: the store's trained row again, or one that has to begin anew.
Evicted = Literal["refilled", "lost"]

_MATCH = 1e-4  # relative: bundles keep scores as float32
_STEP = 64  # exposures between two feeds of labels

Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RequestLog:
    """N exposures in time order, and the rows that they read.

    keys uint64 [M] of the bundle's tables, ascending, and their scores float64 [M], GSET's, when training ended.
    Exposure i reads the rows of keys[places[offsets[i] : offsets[i + 1]]], each once. access_of: for every id of
    a field, the index into `places` of the access to its row, -1 where the bundle has none. times float64 [N], Unix
    seconds. labels [N, T], of which scores count the first task's. test: where the test days begin.
    """

    keys: Keys
    scores: npt.NDArray[np.float64]
    features: Features
    places: Places
    offsets: Places
    access_of: Mapping[str, Places]
    times: npt.NDArray[np.float64]
    labels: Mask
    users: Places
    test: int

    def score(self, exposures: int, now: float) -> npt.NDArray[np.float64]:
        """Returns GSET's score of every key as of `now` from the labels of the first exposures, float64 [M]."""
        weights = GSET.weights(self.times[:exposures], self.labels[:exposures, 0], now)
        counted = np.repeat(weights, np.diff(self.offsets[: exposures + 1]))
        return np.asarray(np.bincount(self.places[: len(counted)], counted, len(self.keys)), np.float64)

    def test_features(self, hits: Mask) -> Features:
        """Returns the features of the test exposures as a cache with these hits, bool [len(places)], serves them.

        An id whose row was not there reads its table's default row, as an unknown id does.
        """

        def as_served(name: str, keys: Keys) -> Keys:
            access = self.access_of[name]
            return np.where((access >= 0) & ~hits[access], MISSING_KEY, keys)

        ids = {name: as_served(name, keys) for name, keys in self.features.ids.items()}
        bags = {name: Bag(as_served(name, bag.keys), bag.offsets) for name, bag in self.features.bags.items()}
        every = Features(self.features.num_rows, ids, bags, self.features.dense)
        return every.select(slice(self.test, None))


def read_log(bundle: Bundle, source: Source, first_test_day: int) -> RequestLog:
    """Encodes the log of `source` for `bundle`, which was trained on the days before `first_test_day`, YYYYMMDD.

    Raises SchemaError where training or test would be without exposures, and where the log before that day does not
    lead to the scores that the bundle has.
    """
    refuse_leakage(bundle.schema, source)
    table = source.interactions()
    # By day, and by time within it: some exposures around midnight are of the other day by the log's own word.
    table = table.take(np.argsort(table[source.day_column].to_numpy(), kind="stable"))
    test = int(np.searchsorted(table[source.day_column].to_numpy(), first_test_day))
    if not 0 < test < table.num_rows:
        raise SchemaError(f"--test-day: expected exposures before and from {first_test_day}, got {test} before it")
    encoder = Encoder(bundle.schema, bundle.sides())
    features = encoder.encode(read_columns(table, encoder.columns))
    keys, scores = bundle_keys(bundle)
    log = RequestLog(
        keys,
        scores,
        features,
        *_requests(keys, features),
        times=np.maximum.accumulate(table[source.time_column].to_numpy() / 1000.0),
        labels=np.stack([table[name].to_numpy() > 0 for name in bundle.schema.labels], axis=1),
        users=np.unique(table[source.user_column].to_numpy(), return_inverse=True)[1],
        test=test,
    )
    # Not all of them: an exposure whose bag holds an id twice counts once here and twice there.
    explained = float(np.mean(np.isclose(log.score(test, log.times[test - 1]), scores, rtol=_MATCH)))
    if explained <= 0.5:
        raise SchemaError(
            f"--test-day: expected the log before {first_test_day} to explain the bundle's scores ({GSET}), got "
            f"{explained:.0%} of them: the bundle was trained on other days or another log"
        )
    return log


def bundle_keys(bundle: Bundle) -> tuple[Keys, npt.NDArray[np.float64]]:
    """Returns all keys of the bundle's tables, ascending, and their GSET scores."""
    with MmapStore(bundle.table_paths, {spec.name: spec for spec in bundle.schema.tables}) as store:
        keys = np.concatenate([file.keys for file in store.files.values()])
        scores = np.concatenate([file.scores for file in store.files.values()])
    order = np.argsort(keys)
    return keys[order].astype(np.uint64), scores[order].astype(np.float64)


def _requests(keys: Keys, features: Features) -> tuple[Places, Places, dict[str, Places]]:
    """Returns places, offsets and access_of, as `RequestLog` has them."""
    rows = np.arange(features.num_rows)
    columns = {name: (values, rows) for name, values in features.ids.items()}
    columns |= {name: (bag.keys, np.repeat(rows, np.diff(bag.offsets))) for name, bag in features.bags.items()}
    values, owners = (np.concatenate([column[i] for column in columns.values()]) for i in (0, 1))
    places = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    known = keys[places] == values
    pairs, index = np.unique(owners[known] * len(keys) + places[known], return_inverse=True)
    access = np.full(len(values), -1)
    access[known] = index
    counts = np.bincount(pairs // len(keys), minlength=features.num_rows)
    ends = np.cumsum([len(column) for column, _ in columns.values()])
    parts = dict(zip(columns, np.split(access, ends[:-1]), strict=True))
    return pairs % len(keys), np.concatenate([[0], np.cumsum(counts)]), parts


def run(log: RequestLog, policy: Policy, rows: int, evicted: Evicted, label_delay: float) -> tuple[Mask, Mask]:
    """Replays `log` through an exact cache of `rows` rows: each exposure looks its rows up, then what missed comes in.

    Returns, by place, whether the cache had a row and whether that was the trained one. In gset rows come with the
    score that training had given them by the interval before, and labels follow once they are `label_delay` seconds
    old; in the other policies neither.
    """
    cache = _kernels.studies.ExactCache(rows, policy, beta=GSET.beta, r=GSET.r, interval=GSET.interval)
    keys = log.keys[log.places]
    trained = np.zeros((len(keys), 1), np.float32)  # the number in the cache: 1 for a trained row
    found = np.zeros(len(keys), np.bool_)
    inserted = np.ones(len(log.keys), np.float32)  # the number that a miss inserts
    scores = _arrival_scores(log) if policy == "gset" else {}
    labelled = 0  # exposures whose labels the cache has seen
    for i, (now, first, last) in enumerate(zip(log.times.tolist(), log.offsets[:-1], log.offsets[1:], strict=True)):
        if i % _STEP == 0:
            cache.set_time(now)
            known = min(int(np.searchsorted(log.times, now - label_delay, "right")), i)
            if policy == "gset" and known > labelled:
                counts = np.diff(log.offsets[labelled : known + 1])
                labels = np.repeat(log.labels[labelled:known, 0], counts)
                cache.feedback(keys[log.offsets[labelled] : log.offsets[known]], labels)
                labelled = known
        cache.lookup(keys[first:last], trained[first:last], found[first:last])
        missed = np.flatnonzero(~found[first:last]) + first
        if missed.size:
            places = log.places[missed]
            given = scores[float(GSET.interval_of(now))][places] if scores else None
            cache.write(keys[missed], inserted[places], given)
            if evicted == "lost":
                inserted[places] = 0.0
    return found, found & (trained[:, 0] == 1.0)


def _arrival_scores(log: RequestLog) -> dict[float, npt.NDArray[np.float32]]:
    """Returns the scores that rows come with, by interval: of the exposures before it; after training, the bundle's.

    NaN where training had not met the id.
    """
    ended = log.times[log.test - 1]
    scores = {}
    intervals = GSET.interval_of(log.times)
    for first in np.unique(intervals, return_index=True)[1]:
        now, number = log.times[first], intervals[first]
        if now > ended:
            known = GSET.decayed(log.scores, number - GSET.interval_of(ended))
        else:
            known = log.score(int(first), now)
        scores[float(number)] = np.where(known > 0, known, np.nan).astype(np.float32)
    return scores
