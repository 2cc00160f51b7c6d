"""A log of exposures as requests to a cache: which rows of a bundle each exposure reads, when, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.encode.features import Bag, Features
from pepnet_infer.errors import SchemaError
from pepnet_infer.export.data.source import Source, refuse_leakage
from pepnet_infer.rows.gset import Gset
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.ids import MISSING_KEY, Keys

GSET = Gset()  # the bundle's and the cache's
_MATCH = 1e-4  # relative: bundles keep scores as float32
_CHECKED = 4096  # keys whose scores are compared with the bundle's

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RequestLog:
    """N exposures in time order. A place is that of a key among the M distinct keys of the bundle's tables.

    keys uint64 [M] ascending and their scores float64 [M], GSET's, when training ended. Exposure i reads the rows
    places[offsets[i] : offsets[i+1]], each once. times float64 [N], unix seconds. labels [N, T]. test: where the test
    days begin; trained_until: when training ended, unix seconds.
    """

    keys: Keys
    scores: npt.NDArray[np.float64]
    features: Features
    places: Places
    offsets: Places
    times: npt.NDArray[np.float64]
    labels: npt.NDArray[np.bool_]
    users: Places
    domains: npt.NDArray[np.object_]
    test: int
    trained_until: float

    @property
    def positive(self) -> npt.NDArray[np.bool_]:
        """The label that scores count, [N]: that of the first task."""
        return self.labels[:, 0]

    def served(self, hits: npt.NDArray[np.bool_]) -> Features:
        """Returns the features of the test exposures as a cache with these hits, bool [len(places)], serves them.

        An id whose row was not there reads its table's default row, as an unknown id does.
        """
        rows = np.arange(self.test, len(self.times))
        asked = _Asked(self, hits)
        test = self.features.select(rows)
        return Features(
            test.num_rows,
            {name: asked.served(keys, rows) for name, keys in test.ids.items()},
            {
                name: Bag(asked.served(bag.keys, np.repeat(rows, np.diff(bag.offsets))), bag.offsets)
                for name, bag in test.bags.items()
            },
            test.dense,
        )


class _Asked:
    """Which (exposure, key) pairs were hits. Pairs are in order, so that one search finds them."""

    def __init__(self, log: RequestLog, hits: npt.NDArray[np.bool_]) -> None:
        first = log.offsets[log.test]
        owners = np.repeat(np.arange(log.test, len(log.times)), np.diff(log.offsets[log.test :]))
        self._keys, self._size = log.keys, len(log.keys)
        self._pairs = owners * self._size + log.places[first:]
        self._hits = hits[first:]

    def served(self, keys: Keys, rows: Places) -> Keys:
        """Returns `keys`, MISSING_KEY for those of the bundle that missed."""
        places, known = _places(self._keys, keys)
        pairs = rows[known] * self._size + places[known]
        kept = keys.copy()
        kept[np.flatnonzero(known)[~self._hits[np.searchsorted(self._pairs, pairs)]]] = MISSING_KEY
        return kept


def read_log(bundle: Bundle, source: Source, first_test_day: int | None) -> RequestLog:
    """Encodes the log of `source` for `bundle`.

    first_test_day: as in the log, YYYYMMDD; None: the day whose preceding days explain the bundle's scores. Raises
    SchemaError where no day does, or where training or test would be without exposures.
    """
    refuse_leakage(bundle.schema, source)
    table = source.interactions()
    # By day, and by time within it: some exposures around midnight are of the other day by the log's own word.
    table = table.take(np.argsort(table[source.day_column].to_numpy(), kind="stable"))
    encoder = Encoder(bundle.schema, bundle.sides())
    features = encoder.encode(read_columns(table, encoder.columns))
    keys, scores = bundle_keys(bundle)
    places, offsets = _requests(keys, features)
    labels = np.stack([table[name].to_numpy() > 0 for name in bundle.schema.labels], axis=1)
    days, millis = table[source.day_column].to_numpy(), table[source.time_column].to_numpy()
    if first_test_day is None:
        first_test_day = _day_after_training(keys, scores, places, offsets, days, millis, labels[:, 0])
    test = int(np.searchsorted(days, first_test_day))
    if not 0 < test < len(days):
        raise SchemaError(f"--test-day: expected exposures before and from {first_test_day}, got {test} before it")
    return RequestLog(
        keys=keys,
        scores=scores,
        features=features,
        places=places,
        offsets=offsets,
        times=np.maximum.accumulate(millis / 1000.0),
        labels=labels,
        users=np.unique(table[source.user_column].to_numpy(), return_inverse=True)[1],
        domains=np.asarray(table[bundle.schema.domain_column].to_pylist(), object),
        test=test,
        trained_until=float(millis[:test].max()) / 1000.0,
    )


def score_of(
    size: int,
    places: Places,
    offsets: Places,
    seconds: npt.NDArray[np.float64],
    positive: npt.NDArray[np.bool_],
    now: float,
) -> npt.NDArray[np.float64]:
    """Returns GSET's score of every place as of `now`, float64 [size], of exposures at `seconds` [n]."""
    weights = GSET.weights(seconds, positive, now)
    return np.asarray(np.bincount(places, np.repeat(weights, np.diff(offsets)), size), np.float64)


def bundle_keys(bundle: Bundle) -> tuple[Keys, npt.NDArray[np.float64]]:
    """Returns all keys of the bundle's tables, ascending, and their GSET scores."""
    with MmapStore(bundle.table_paths, {spec.name: spec for spec in bundle.schema.tables}) as store:
        parts = [store.scored_keys(spec.name) for spec in bundle.schema.tables]
    keys, scores = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    order = np.argsort(keys)
    return keys[order].astype(np.uint64), scores[order].astype(np.float64)


def _places(known: Keys, keys: Keys) -> tuple[Places, npt.NDArray[np.bool_]]:
    """Returns where `keys` are among `known`, ascending, and which are there at all."""
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return at, known[at] == keys


def _requests(keys: Keys, features: Features) -> tuple[Places, Places]:
    rows = np.arange(features.num_rows)
    parts = []
    columns = [(values, rows) for values in features.ids.values()]
    columns += [(bag.keys, np.repeat(rows, np.diff(bag.offsets))) for bag in features.bags.values()]
    for values, owners in columns:
        places, known = _places(keys, values)
        parts.append(owners[known] * len(keys) + places[known])
    pairs = np.unique(np.concatenate(parts))
    counts = np.bincount(pairs // len(keys), minlength=features.num_rows)
    return pairs % len(keys), np.concatenate([[0], np.cumsum(counts)])


def _day_after_training(
    keys: Keys,
    scores: npt.NDArray[np.float64],
    places: Places,
    offsets: Places,
    days: Places,
    millis: Places,
    positive: npt.NDArray[np.bool_],
) -> int:
    """Returns the day before which the log gives most keys exactly the scores that the bundle has.

    Not all: an exposure whose bag holds an id twice counts once here and twice there.
    """
    few = np.flatnonzero(places < min(len(keys), _CHECKED))
    places, owners = places[few], np.repeat(np.arange(len(days)), np.diff(offsets))[few]
    for day in np.unique(days)[1:]:
        end = int(np.searchsorted(days, day))
        seconds = millis[:end] / 1000.0
        part = np.searchsorted(owners, end)
        cuts = np.searchsorted(owners[:part], np.arange(end + 1))
        ours = score_of(len(keys), places[:part], cuts, seconds, positive[:end], seconds.max())[:_CHECKED]
        if np.mean(np.isclose(ours, scores[:_CHECKED], rtol=_MATCH)) > 0.5:
            return int(day)
    raise SchemaError(
        f"--test-day: expected a day before which the log explains the bundle's scores ({GSET}), got none: "
        "say which day is the first that it was not trained on"
    )
