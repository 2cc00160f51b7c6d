"""The engine: a loaded bundle that scores batches, single requests and plain matrices, from any number of threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter_ns
from typing import Any, Literal, Self, TypeVar, TypeVarTuple, overload

from pepnet_infer._kernels import SharedLock
from pepnet_infer.backends.dlpack import DeviceArray
from pepnet_infer.backends.protocol import Backend, DeviceBackend
from pepnet_infer.bundle.bundle import Bundle, Check
from pepnet_infer.bundle.watch import BundleWatch
from pepnet_infer.encode.columns import BatchLike
from pepnet_infer.encode.encoder import Encoded
from pepnet_infer.encode.features import Features
from pepnet_infer.errors import BackendError, ClosedError, ConfigError, UpdateError
from pepnet_infer.process import forks
from pepnet_infer.process.closing import Closing
from pepnet_infer.rows.cache.cached_rows import CachedRows
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.rows.cache.open_bundle_rows import open_rows
from pepnet_infer.rows.protocols import RowSource, Store, meets
from pepnet_infer.rows.version_rows import VersionRows, cache_of
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.inputs import Matrix
from pepnet_infer.scores import Scores
from pepnet_infer.stats import EngineStats
from pepnet_infer.sync.follow_config import FollowConfig
from pepnet_infer.sync.follower import Follower
from pepnet_infer.sync.logs.transport import Readable, Transport
from pepnet_infer.validation import check_option
from pepnet_infer.versions.loading import Loading, digest_of
from pepnet_infer.versions.model_version import ModelVersion, Versions
from pepnet_infer.versions.scoring import Scoring, encode, encode_rows

Out = TypeVar("Out", bound=DeviceArray)
_Result = TypeVar("_Result")
_Args = TypeVarTuple("_Args")


class Engine(Closing):
    """Scores what a bundle was trained for. Every method may be called from many threads at once.

    The result of a call does not depend on what other threads do. Use it as a context manager, or call `close`.
    """

    def __init__(self, bundle: Bundle, rows: RowSource, backend: Backend, loading: Loading | None = None) -> None:
        self._versions: Versions | None = Versions(ModelVersion.of(bundle, rows, backend))
        self._loading = loading
        self._scoring = Scoring()
        self._watch = BundleWatch()
        self._follower: Follower | None = None
        self.reset_after_fork()
        forks.register(forks.Stage.ENGINES, child=self.reset_after_fork)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        backend: str = "auto",
        precision: str = "fp32",
        threads: int | None = None,
        cache: CacheConfig | Literal["default"] | None = "default",
        store: RowSource | Store | None = None,
        check: Check = "full",
        options: Mapping[str, object] | None = None,
    ) -> Self:
        """Opens the bundle at `path` and everything it takes to score with it.

        device: where the dense part runs: "cpu", "cuda" or "cuda:N" (a GPU: docs/gpu.md), or "auto", which is a GPU
        where one answers and else the CPU. backend: "native", "onnxruntime" or "auto"; `stats()["backend"]["why"]` says
        what auto took and why. precision: "fp32" or, with native, "bf16" and, on the CPU, "int8" where export measured
        it within the bundle's budget. threads: of the dense part; None is what the process's cpuset and cgroup allow.
        cache: how hot rows are kept in memory; "default" is `CacheConfig()`, None is no cache. Of its capacity no more
        is taken than all rows of the bundle need, and before a `store` all of it; with rows of float32 scores are the
        same bits with and without.
        store: where embedding rows come from instead of the bundle's tables: a `Store`, behind the cache, or a
        `RowSource`, which is asked itself. check: "sizes" skips the hashes. options: the backend's own, such as
        {"spin": False}, which leaves the CPU to others between calls, or {"isa": "avx2"} for native, {"rows": "4GiB"},
        which keeps rows there too, for native on a GPU, and {"tensorrt": True} for onnxruntime there.

        Raises BundleError for a damaged bundle, StoreError for a store that cannot be read (unless the cache's
        `on_load` is "warn"), BackendError for a backend, device, precision or instruction set that is not there,
        ConfigError for a device, threads, options, a cache and a store that cannot be.
        """
        own = check_option("options", {} if options is None else options, Mapping[str, Any])
        loading = Loading(backend, precision, threads, device, cache, store, dict(own), check)
        return cls._of(path, loading)

    @classmethod
    def _of(cls, path: str | os.PathLike[str], loading: Loading, digest: str | None = None) -> Self:
        bundle = loading.open_bundle(path, digest)
        dense = loading.dense(bundle)
        engine = cls(bundle, open_rows(bundle, loading.cache, loading.store), dense, loading)
        bundle.check_unchanged()
        return engine

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles as the arguments of `load`: who unpickles it loads the bundle, which must be the same, from its path.

        Raises ClosedError, BackendError for an engine that was not made by `load`, UpdateError for one that follows,
        or has followed, a log, StoreError for one whose store does not pickle. See docs/processes.md.
        """
        served, loading = self._open(), self._loading
        if loading is None:
            raise BackendError("engine: expected one made by Engine.load, got another: load an engine in each worker")
        if self._follower is not None or isinstance(served.rows, VersionRows):
            said = "pickle: expected an engine that serves its bundle as it is, got one that follows a log"
            raise UpdateError("engine", f"{said}: load an engine in each worker and call follow there")
        loading.check_pickles()
        return type(self)._of, (served.bundle.path, loading, digest_of(served.bundle))

    @property
    def bundle(self) -> Bundle:
        """The bundle that new calls are scored with; with later weights where the engine follows."""
        return self._open().bundle

    @property
    def schema(self) -> FeatureSchema:
        """The columns the engine reads, its domains and its tasks."""
        return self.bundle.schema

    @property
    def tasks(self) -> tuple[str, ...]:
        """The targets, in the order of the score columns."""
        return self.bundle.tasks

    @property
    def model_version(self) -> int:
        """The version of the model that new calls get."""
        return self.bundle.model_version

    @property
    def cache(self) -> CachedRows | None:
        """The cache that rows come through: updates, feedback, prefetch, snapshots. None where there is none."""
        return cache_of(self._open().rows)

    def identity(self) -> dict[str, Any]:
        """Returns what scores depend on beside the batch, as plain JSON values; see `ModelVersion.identity`.

        Two engines with the same identity score alike, in whichever process, unless `rows` is None.
        """
        return self._open().identity()

    def score(self, batch: BatchLike, strict: bool = False) -> Scores:
        """Returns the scores of `batch`: rows in = rows out, 0 included.

        batch: a dict of columns, a pandas DataFrame, or anything that speaks Arrow (pyarrow, polars, duckdb), with
        the columns in `schema.columns`; what else it has is ignored, or an error with `strict`. Raises SchemaError
        for a missing column, a wrong type, a null, an id out of range, NaN, an unknown domain; StoreError when rows
        cannot be read and the cache's `on_fault` is "raise", or there is no cache; ClosedError once the engine is
        closed.
        """
        return self._call(self._scoring.score, batch, strict)

    def rank(
        self,
        user: Mapping[str, object],
        items: BatchLike,
        domain: object,
        context: Mapping[str, object] | None = None,
        strict: bool = False,
        *,
        top: int | None = None,
        by: str | None = None,
    ) -> Scores:
        """Returns the scores of one request's N candidates, in their order, or the best ones first.

        user, context: one value a column, a list for a bag. items: a batch of N rows. domain: the page, one value.
        Each column the model reads stands in exactly one of them. The same as `score` with user, context and domain
        repeated N times, but these are encoded and looked up once, and their unknown and unavailable ids
        count once.

        by: a task, by whose scores the candidates are sorted, the highest first; `Scores.order` says which item each
        is. top: how many of them are returned at most; None is all. Those whose scores are no numbers are left out.

        Raises what `score` raises; ConfigError for `top` without a task.
        """
        if by is None and top is not None:
            raise ConfigError("by: expected a task to sort by, as top is given, got none")
        scores = self._call(self._scoring.rank, user, items, domain, context, strict)
        return scores if by is None else scores.top(top, by)

    @overload
    def score_dense(self, general: Matrix, domain: Matrix, prior: Matrix) -> Matrix: ...

    @overload
    def score_dense(
        self, general: DeviceArray, domain: DeviceArray, prior: DeviceArray, *, out: Out, stream: int = 0
    ) -> Out: ...

    def score_dense(
        self, general: Any, domain: Any, prior: Any, *, out: DeviceArray | None = None, stream: int = 0
    ) -> object:
        """Returns scores float32 [B, T] of inputs that are embedded already, float32 [B, ·].

        Their widths are `bundle.config.inputs`. Arrays of any other dtype or shape are refused with a SchemaError; a
        view that is not C-contiguous is copied. NaN and infinities are computed with as IEEE 754 says, and never touch
        the scores of other rows; rows of which a score is then no number in [0, 1] are counted in `stats()["invalid"]`.

        With `out` all four are arrays on the GPU that speak DLPack (torch, cupy), C-contiguous, and the native backend
        runs there: nothing is copied, the call is put into the CUDA stream `stream` (its handle; 0 is the default one)
        and returns `out` at once, whose scores are there for what comes later in that stream, and are not looked at.
        """
        values: Matrix | DeviceArray
        begin = perf_counter_ns()  # no generator and no stopwatch here: a call may be a few microseconds long
        with self._scoring:
            served = self._open()
            if out is None:
                values = served.dense(general, domain, prior)
                rows = len(values)
                self._scoring.invalid(values)
            else:
                backend = served.backend
                if not isinstance(backend, DeviceBackend):
                    wanted = "expected the native backend on a GPU, which scores arrays where they are"
                    raise BackendError(f"out: {wanted}, got {backend.name} on {backend.describe()['device']}")
                values, rows = out, backend.run_on_device(general, domain, prior, out, stream)
        self._scoring.add(1, rows, (0, 0, perf_counter_ns() - begin))
        if begin >= self._watch.due:
            self._watch.look(served.bundle)
        return values

    def encode(self, batch: BatchLike, strict: bool = False) -> Features:
        """Returns what `score_features` reads. Raises what `score` raises for a batch it refuses."""
        return self._call(self._scoring.encoded, encode, batch, strict)

    def encode_rows(self, batch: BatchLike, strict: bool = False) -> Encoded:
        """Returns features, which rows are bad, and why; only what is wrong with a whole column raises."""
        return self._call(self._scoring.encoded, encode_rows, batch, strict)

    def score_features(self, features: Features) -> Scores:
        """Returns the scores of an encoded batch, what `encode` returns: the second half of `score`.

        Raises SchemaError for anything else and for features that lack a field, and for rows what `score` raises.
        """
        return self._call(self._scoring.score_features, features)

    def stats(self) -> EngineStats:
        """Returns counters since loading, without stopping anyone: see `EngineStats`."""
        served, follower = self._open(), self._follower
        bundle, cache = served.bundle, cache_of(served.rows)
        state, file = self._watch.look(bundle)
        return {
            **self._scoring.counts(bundle.schema),
            "model_version": served.model_version,
            "bundle": {"path": str(bundle.path), "state": state, "file": file},
            "cache": None if cache is None else cache.stats(),
            "backend": served.backend.describe(),
            "sync": None if follower is None else follower.stats(),
        }

    def metrics(self) -> str:
        """Returns `stats()` as Prometheus text; serve it as `pepnet_infer.prometheus.CONTENT_TYPE`."""
        from pepnet_infer.prometheus import prometheus_text  # its imports take longer than those of all else here

        return prometheus_text(self.stats())

    def follow(self, transport: Transport, config: FollowConfig | None = None) -> Follower:
        """Keeps the engine at the newest version that is published, until it is closed; see `Follower`.

        Returns when the engine has caught up with what is published now. Calls keep the version they began with; each
        says which one in `Scores.model_version`. transport: a `DirectoryLog`, a `RedisLog`, or a log of your own.
        Raises UpdateError when the engine cannot follow or the log cannot be read, ConfigError for what is no log,
        ClosedError once the engine is closed.
        """
        with self._lock:  # one at a time, and none beside `close`
            served = self._serving()
            if self._follower is not None:
                raise UpdateError("engine", "follow: expected an engine that follows nothing yet, got one that does")
            if self._loading is None:
                raise UpdateError("engine", "follow: expected an engine made by Engine.load, got another")
            if self._gate.is_sharing:
                raise UpdateError("engine", "follow: expected a thread that holds no version, got one inside `hold`")
            if not meets(transport, Readable):  # a path, say, which commands take for a log
                wanted = "expected a log, such as DirectoryLog(path) or RedisLog(url, spool=folder)"
                raise ConfigError(f"transport: {wanted}, got {type(transport).__name__}")
            follower = Follower(served, self._loading, transport, config or FollowConfig(), self._gate)
            self._follower = follower
        self._scoring.offer = None if follower.guard is None else follower.guard.offer
        try:
            follower.start()
        except BaseException:
            self._follower = self._scoring.offer = None
            follower.close()
            follower.updater.withdraw()
            raise
        return follower

    def rollback(self, version: int) -> None:
        """Goes back to an earlier version, and leaves out those after it; see `Follower.rollback`."""
        self._serving()
        if self._follower is None:
            raise UpdateError("engine", "rollback: expected an engine that follows, got one that does not")
        self._follower.rollback(version)

    def hold(self) -> AbstractContextManager[object]:
        """Keeps the version that new calls get for as long as the block lasts, for work that takes many calls."""
        self._serving()
        if self._gate.is_sharing:
            return nullcontext()
        return self._gate.shared() if self._follower is None else self._follower.hold()

    def close(self) -> None:
        """Lets go of backend and tables. Calls under way finish; whatever is asked of it later raises ClosedError."""
        with self._lock:
            follower, versions, self._follower, self._versions = self._follower, self._versions, None, None
        if follower is not None:
            follower.close()
        if versions is not None and (cache := cache_of(versions.now.rows)) is not None:
            cache.close()

    def __repr__(self) -> str:
        if (versions := self._versions) is None:
            return "<Engine: closed>"
        served, follows = versions.now, "" if self._follower is None else "; follows a log"
        about, cache = served.backend.describe(), cache_of(served.rows)
        runs = f"{about['backend']} {about['precision']} on {about['device']}"
        kept = "no cache" if cache is None else f"cache {cache.config.policy}"
        return f"<Engine: {served.bundle.path}; model_version {served.model_version}; {runs}; {kept}{follows}>"

    def reset_after_fork(self) -> None:
        """In a child process: the follower's thread, and what holds the locks, are the parent's."""
        self._follower = self._scoring.offer = None
        self._gate = SharedLock()  # held around every change of the version
        self._lock = threading.Lock()  # held where a follower comes or goes

    def _serving(self) -> Versions:
        versions = self._versions
        if versions is None:
            raise ClosedError("Engine is closed.")
        return versions

    def _open(self) -> ModelVersion:
        return self._serving().now

    def _call(self, work: Callable[[ModelVersion, *_Args], _Result], *args: *_Args) -> _Result:
        """Returns what `work` does with the newest version, which is held until it ends; counts it if it raises."""
        with self._scoring:
            versions = self._serving()
            result = versions.use(work, *args)
        if perf_counter_ns() >= self._watch.due:
            self._watch.look(versions.now.bundle)
        return result
