"""Putting versions in place: rows and weights together, while calls of earlier versions go on.

Calls of a delta's version alone see its rows, through an overlay, at first. Once no call uses an earlier version, the
rows are written back to the store and the cache, where all calls read them, and the overlay is dropped.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce

from msgspec import structs

from pepnet_infer.backends.dense_inputs import dense_call
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.errors import BackendError, BundleError, UpdateError
from pepnet_infer.process.pace import Rest
from pepnet_infer.rows.cache.cached_rows import CachedRows
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.rows.cache.embedding_cache import EmbeddingCache
from pepnet_infer.rows.cache.open_bundle_rows import open_rows
from pepnet_infer.rows.protocols import Rows
from pepnet_infer.rows.version_rows import Overlay, VersionRows, over
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.sync.delta import Delta
from pepnet_infer.sync.drift_guard import DriftGuard
from pepnet_infer.sync.follow_config import FollowConfig
from pepnet_infer.sync.layered_store import BeforeImage, EmptyStore, LayeredStore, Undo, earliest
from pepnet_infer.sync.sync_stats import SyncStats
from pepnet_infer.versions.loading import Loading
from pepnet_infer.versions.model_version import ModelVersion, Versions

_CHUNK = 1 << 12  # rows that are written back in one piece
#: Seconds that a rollback, or the end of a bundle's use, waits for calls of earlier versions.
_PATIENCE_S = 30.0


@dataclass
class _EarlierVersion:
    """A version that a rollback can lead to."""

    served: ModelVersion
    defaults: Mapping[str, Rows]
    undo: Undo = field(default_factory=dict)  # of what came after it; known when that was written back


@dataclass
class _PendingWrite:
    """Rows that calls see through an overlay, and that wait for their write-back."""

    number: int  # of the version that they came with
    overlay: Overlay
    before: _EarlierVersion | None = None  # the version that they were put on
    back: Undo | None = None  # of a rollback: what to restore
    undo: Undo | None = None  # what was below before the write-back, which may have broken off and be done again


class Updater:
    """For one thread at a time, but for what `Versions` lets any thread do."""

    def __init__(
        self,
        versions: Versions,
        loading: Loading,
        config: FollowConfig,
        stats: SyncStats,
        guard: DriftGuard | None,
        rest: Rest,
    ) -> None:
        self._versions, self._loading, self._config, self._stats = versions, loading, config, stats
        self._guard, self._rest = guard, rest
        self._pending: list[_PendingWrite] = []
        self._past: deque[_EarlierVersion] = deque(maxlen=config.keep or None)
        self._defaults: dict[str, Rows] = {}
        #: A rollback left versions up to this one: their deltas are refused.
        self.left_behind = -1
        rows = versions.now.rows
        if isinstance(rows, VersionRows):  # it followed before: in the parent process, or until its log was away
            self._adopt(rows.cached)
            self._defaults = dict(rows.defaults)
            if rows.overlay is not None:
                self._pending.append(_PendingWrite(versions.number, rows.overlay))
            return
        if not isinstance(rows, CachedRows):
            got = type(rows).__name__
            raise UpdateError("cache", f"follow: expected an engine with a cache in front of a store, got {got}")
        self._adopt(rows)

    @property
    def model_version(self) -> int:
        """The version that new calls get."""
        return self._versions.now.model_version

    @property
    def waiting(self) -> bool:
        """Whether there are rows that were not written back yet."""
        return bool(self._pending)

    @property
    def layered_rows(self) -> int:
        """Ids whose rows came after the bundle."""
        return len(self._layers)

    def _adopt(self, cached: CachedRows) -> None:
        self._cached, there = cached, cached.store
        self._before = there
        if isinstance(there, LayeredStore):
            before = "cache" if isinstance(there.below, EmptyStore) else "store"
            if before != self._config.rows:
                raise UpdateError("config", f"rows: expected {before!r} as before, got {self._config.rows!r}")
            self._layers = there
            return
        self._layers = LayeredStore(there if self._config.rows == "store" else EmptyStore())
        cached.put_before_store(self._layers)

    def withdraw(self) -> None:
        """Has the cache ask what it asked before, unless a version was taken."""
        if self._versions.now.rows is self._cached:
            self._cached.put_before_store(self._before)

    def apply(self, delta: Delta) -> None:
        """Makes the delta's version the one that new calls get. `write_back` comes after it.

        Raises UpdateError, with everything as it was: for another base than the version in place, for weights that the
        backend does not take, and for scores that drift.
        """
        now, head = self._versions.now, delta.head
        if head.base_version != now.model_version:
            raise UpdateError(
                "base", f"{delta.path}: expected a delta on version {now.model_version}, got one on {head.base_version}"
            )
        if delta.dense is None:
            bundle, backend, dense = replace(now.bundle, model_version=head.model_version), now.backend, now.dense
        else:
            bundle = now.bundle.with_dense(delta.dense, delta.onnx, head.model_version)
            with UpdateError.in_place_of(BackendError, BundleError, reason="dense", within=delta.path):
                backend = self._loading.dense(bundle)
            dense = dense_call(backend, bundle.config.inputs)
        defaults = {**self._defaults, **{n: t.default for n, t in delta.rows.items() if t.default is not None}}
        overlay = Overlay(delta.rows, self._rest)
        served = replace(now, bundle=bundle, backend=backend, dense=dense, applied=_applied(now.applied, delta))
        served = self._with_rows(served, self._seen(overlay), defaults)
        guard = self._guard if delta.dense is not None else None
        if guard is not None and not guard.check(now, served, bundle.tasks, self._rest):
            self._stats.count("unguarded")
        before = _EarlierVersion(self._with_rows(now, None, self._defaults), self._defaults)
        number = self._swap(served, overlay)  # what fails before it has changed nothing
        if self._config.keep:
            self._past.append(before)
        self._defaults = defaults
        self._pending.append(_PendingWrite(number, overlay, before))

    def replace_bundle(self, bundle: Bundle) -> None:
        """Makes a whole bundle the version that new calls get: its rows, weights and side tables.

        Its rows are those of its tables, also where the engine was loaded with a store: that has an earlier version's.
        For as long as calls use what was there before, both caches take memory. Raises UpdateError.
        """
        now = self._versions.now
        if bundle.schema.hash != now.bundle.schema.hash:
            raise UpdateError("schema", f"{bundle.path}: schema_hash: expected {now.bundle.schema.hash}")
        with UpdateError.in_place_of(BackendError, BundleError, reason="dense", within=bundle.path):
            backend = self._loading.dense(bundle)
            cache = self._loading.cache  # without its snapshot, which is of the first bundle's rows
            cache = structs.replace(cache, warm_from=None) if isinstance(cache, CacheConfig) else cache
            rows = open_rows(bundle, cache, None)
        if not isinstance(rows, CachedRows):
            raise UpdateError("cache", f"{bundle.path}: expected rows through a cache, got {type(rows).__name__}")
        old, layers = self._cached, self._layers
        try:
            served = ModelVersion.of(bundle, rows, backend)
            self._adopt(rows)
            number = self._versions.put(served)
        except Exception as error:  # the version before goes on, with its rows
            self._cached, self._layers = old, layers
            rows.close()
            if isinstance(error, BundleError):
                raise UpdateError.of(error, reason="bundle") from error
            raise
        self._pending, self._defaults = [], {}
        self._past.clear()
        self._versions.wait_until(number, _PATIENCE_S)
        old.close()

    def rollback(self, version: int) -> None:
        """Makes an earlier version the one that new calls get. Raises UpdateError when it is not kept any more."""
        if not self._versions.wait_until(self._versions.number, _PATIENCE_S):
            raise UpdateError("busy", f"rollback: expected calls under way to end within {_PATIENCE_S:g} s, got longer")
        self.write_back()
        steps = []
        for past in reversed(self._past):
            steps.append(past)
            if past.served.model_version == version:
                break
        else:
            kept = ", ".join(str(past.served.model_version) for past in self._past) or "none"
            raise UpdateError("history", f"rollback: expected one of the versions kept ({kept}), got {version}")
        target, undo = steps[-1], earliest([past.undo for past in steps])
        # The store may fail here, while everything is as it was.
        overlay = Overlay({table: image.seen(self._layers.below) for table, image in undo.items()})
        for _ in steps:
            self._past.pop()
        self.left_behind = max(self.left_behind, self.model_version)
        self._defaults = dict(target.defaults)
        served = self._with_rows(target.served, overlay, self._defaults)
        # It stands there before the version does: an interrupt in between leaves no version whose rows are not written.
        pending = _PendingWrite(self._versions.number + 1, overlay, back=undo)
        try:
            self._pending.append(pending)
            self._swap(served, overlay)
        except BaseException:
            if self._versions.number < pending.number:
                self._pending = [one for one in self._pending if one is not pending]
            raise
        self._stats.count("rollbacks")
        self.write_back()

    def write_back(self) -> None:
        """Writes back the rows of which no call reads an earlier state any more."""
        oldest = self._versions.oldest()
        ready = [pending for pending in self._pending if pending.number <= oldest]
        if not ready:
            return
        for pending in ready:
            if pending.back is None:
                self._write_rows(pending)
            else:
                for table, image in pending.back.items():
                    self._layers.restore(image)
                    cache = self._cached.cache(table)
                    cache.flights.touch(image.rows.keys)
                    cache.core.forget(image.rows.keys)
            self._pending.remove(pending)
            self._stats.count("written_back")
        served = self._with_rows(self._versions.now, self._seen(), self._defaults)
        self._versions.put(served, same=True)

    def _with_rows(self, served: ModelVersion, overlay: Overlay | None, defaults: Mapping[str, Rows]) -> ModelVersion:
        return served.with_rows(VersionRows(self._cached, overlay, defaults))

    def _swap(self, served: ModelVersion, overlay: Overlay) -> int:
        """Gives a version to new calls. Copies of rows that it changes go before, and do not come back."""
        beside = self._cached.beside
        if beside is not None:
            beside.epoch += 1
            for table, changed in overlay.rows.items():
                beside.drop(self._cached.tables[table].dim, changed.keys)
            if served.features is not None:
                served.features.epoch = beside.epoch
        return self._versions.put(served)

    def _seen(self, *newest: Overlay) -> Overlay | None:
        """Returns what calls see above the store and the cache: all that waits for its write-back, and `newest`."""
        overlays = [*(pending.overlay for pending in self._pending), *newest]
        return reduce(lambda below, above: over(above, below), overlays) if overlays else None

    def _write_rows(self, pending: _PendingWrite) -> None:
        changes, stored = pending.overlay.rows, self._config.rows == "store"
        if pending.undo is None:
            pending.undo = {table: self._state(changed) for table, changed in changes.items() if stored}
        for table, changed in changes.items():
            for some in _pieces(changed):
                if stored:
                    self._layers.put(some)
                    self._rest()
                self._write(self._cached.cache(table), some)
                self._rest()
        if pending.before is not None:
            pending.before.undo = pending.undo

    def _state(self, changed: RowBatch) -> BeforeImage:
        """Returns what is below of the keys, all of it before any of it changes."""
        parts = []
        for some in _pieces(changed):
            parts.append(self._layers.before_image(some.keys, some.rows.shape[1]))
            self._rest()
        return BeforeImage.concat(parts)

    def _write(self, cache: EmbeddingCache, changed: RowBatch) -> None:
        """Brings the cache up to date. The store, if rows are there, has them: what is not here is fetched from it."""
        core = cache.core
        self._cached.followed = True
        cache.flights.touch(changed.keys)
        if not changed.found.all():
            core.forget(changed.keys[~changed.found])
            changed = changed.take(changed.found)
        everything = self._config.insert == "all" or (self._config.insert == "auto" and core.policy == "gset")
        # Whatever is there: deltas come here in order, and all rows of one have one version, of which as updates no
        # more would be taken once a row of it had to leave; a store may number its rows otherwise, and a snapshot be of
        # a later version.
        core.write(*changed.entries, put=True, known=not everything)


def _pieces(changed: RowBatch) -> Iterator[RowBatch]:
    return (changed.take(slice(begin, begin + _CHUNK)) for begin in range(0, len(changed.keys), _CHUNK))


def _applied(before: str | None, delta: Delta) -> str | None:
    """Returns `ModelVersion.applied` after a delta: the same for the same deltas in the same order, on any engine."""
    if before is None or delta.expires:
        return None
    return hashlib.sha256(f"{before} {delta.digest}".encode()).hexdigest()
