"""What a call does with one version of a model: encoding, rows, the dense part, and what is counted of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter_ns
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer._kernels import Tally
from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.encoder import Encoded
from pepnet_infer.encode.features import Features
from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.inputs import Matrix
from pepnet_infer.scores import Scores
from pepnet_infer.stats import CallCounts, DefaultedIds
from pepnet_infer.throttled_warnings import Seldom
from pepnet_infer.versions.model_version import ModelVersion

STAGES = ("encode", "lookup", "dense")
_LOG = logging.getLogger("pepnet_infer.engine")
_CAUSE = "their inputs or embedding rows are no numbers or overflow float32"
_ENGINE, _UNKNOWN, _UNAVAILABLE = "engine", "unknown", "unavailable"  # what sums are of
_Result = TypeVar("_Result")


class Stopwatch:
    """Times the stages of one call, one at a time: `with watch.stage("encode"): …`."""

    __slots__ = ("_begin", "_stage", "spent")

    def __init__(self) -> None:
        self.spent = dict.fromkeys(STAGES, 0)  #: nanoseconds by stage

    def stage(self, name: str) -> Stopwatch:
        """Begins a stage, which ends with the block."""
        self._stage, self._begin = name, perf_counter_ns()
        return self

    def __enter__(self) -> None:
        """The time has begun."""

    def __exit__(self, *error: object) -> None:
        self.spent[self._stage] += perf_counter_ns() - self._begin


class Scoring:
    """Of one engine: its calls, each on the version that it holds, and totals since the engine was loaded.

    Any thread may call. Each count is one addition that nothing can interrupt.
    """

    def __init__(self) -> None:
        #: Called with what makes the features of a call, which keeps some of them now and then: a follower's guard.
        self.offer: Callable[[Callable[[], Features]], None] | None = None
        self._tally = Tally()
        self._warnings = Seldom()

    def __enter__(self) -> None:
        """Begins a call: `with scoring:` counts it if it raises, and lets the exception pass."""

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            self._tally.add([(_ENGINE, (0, 0, 1))])

    def score(self, parts: ModelVersion, batch: object, strict: bool) -> Scores:
        """Returns the scores of a batch; see `Engine.score`."""
        watch = Stopwatch()
        with watch.stage("encode"):
            features = encode(parts, batch, strict)
        return self._finish(parts, watch, features)

    def rank(
        self,
        parts: ModelVersion,
        user: Mapping[str, object],
        items: object,
        domain: object,
        context: Mapping[str, object] | None,
        strict: bool,
    ) -> Scores:
        """Returns the scores of one request's candidates; see `Engine.rank`."""
        watch = Stopwatch()
        with watch.stage("encode"):
            shared, per_item = parts.requests.read(user, items, domain, context, strict)
        return self._finish(parts, watch, per_item, shared)

    def score_features(self, parts: ModelVersion, features: Features) -> Scores:
        """Returns the scores of a batch that is encoded; see `Engine.score_features`."""
        if not isinstance(features, Features):  # such as the whole of what `encode_rows` returns
            wanted = "what Engine.encode returns, or `features` of what Engine.encode_rows does"
            raise SchemaError(f"features: expected {wanted}, got {type(features).__name__}")
        return self._finish(parts, Stopwatch(), features)

    def encoded(
        self, parts: ModelVersion, work: Callable[[ModelVersion, object, bool], _Result], batch: object, strict: bool
    ) -> _Result:
        """Returns what `work` makes of a batch, `encode` or `encode_rows`, and counts its time."""
        watch = Stopwatch()
        with watch.stage("encode"):
            result = work(parts, batch, strict)
        self.add(0, 0, watch.spent.values())
        return result

    def invalid(self, values: Matrix) -> npt.NDArray[np.bool_] | None:
        """Returns the rows of which a score is no number in [0, 1]; None: there is none.

        They are counted and logged as a warning, the next one a minute later.
        """
        invalid = _kernels.rows_without_probability(values)
        if invalid is not None:
            rows = int(np.count_nonzero(invalid))
            self._tally.add([(_ENGINE, (0, 0, 0, rows))])
            if self._warnings.due():
                total = self._tally.read()[_ENGINE][3]
                _LOG.warning("%d rows have scores that are no numbers in [0, 1], of %d so far: %s", rows, total, _CAUSE)
        return invalid

    def add(
        self,
        batches: int,
        rows: int,
        spent: Iterable[int],
        unknown: Mapping[str, int] = {},
        unavailable: Mapping[str, int] = {},
    ) -> None:
        """Counts batches that were scored, none for work that is no whole one. spent: nanoseconds of each stage."""
        items: list[tuple[Any, tuple[int, ...]]] = [(_ENGINE, (batches, rows, 0, 0, *spent))]
        items += [((_UNKNOWN, name), (count,)) for name, count in unknown.items()]
        items += [((_UNAVAILABLE, name), (count,)) for name, count in unavailable.items()]
        self._tally.add(items)

    def counts(self, schema: FeatureSchema) -> CallCounts:
        """Returns all counts; fields have the tables that `schema` says."""
        sums = self._tally.read()
        engine = sums.pop(_ENGINE, ())
        batches, rows, errors, invalid, *spent = (*engine, *[0] * (4 + len(STAGES) - len(engine)))
        return {
            "batches": batches,
            "rows": rows,
            "errors": errors,
            "invalid": invalid,
            "unknown": _by_table(_UNKNOWN, sums, schema),
            "unavailable": _by_table(_UNAVAILABLE, sums, schema),
            "time_us": {stage: nanoseconds // 1000 for stage, nanoseconds in zip(STAGES, spent, strict=True)},
        }

    def _finish(
        self, parts: ModelVersion, watch: Stopwatch, features: Features, shared: Features | None = None
    ) -> Scores:
        if parts.features is None:
            with watch.stage("lookup"):
                inputs = parts.assembler.inputs(features, shared)
            with watch.stage("dense"):
                values = parts.backend.run(inputs)
            unknown, unavailable = inputs.unknown, inputs.unavailable
        else:
            with watch.stage("dense"):
                values, unknown, unavailable = parts.features.score(features, shared)
        self.add(1, len(values), watch.spent.values(), unknown, unavailable)
        if (offer := self.offer) is not None:  # none of a call that failed: they would fail again
            offer(lambda: features if shared is None else features.with_shared(shared))
        return Scores(
            values, parts.bundle.schema.tasks, parts.model_version, unknown, unavailable, self.invalid(values)
        )


def encode(parts: ModelVersion, batch: object, strict: bool) -> Features:
    """Returns a batch's features. Raises SchemaError."""
    return parts.encoder.encode(read_columns(batch, parts.encoder.columns, strict))


def encode_rows(parts: ModelVersion, batch: object, strict: bool) -> Encoded:
    """Returns features, which rows are bad, and why; only what is wrong with a whole column raises."""
    return parts.encoder.encode_rows(read_columns(batch, parts.encoder.columns, strict))


def _by_table(kind: str, sums: Mapping[Any, tuple[int, ...]], schema: FeatureSchema) -> DefaultedIds:
    """Returns counts of a kind by field, and their sums by table."""
    fields = {name: count for (which, name), (count,) in sums.items() if which == kind}
    tables: dict[str, int] = {}
    for name, count in fields.items():
        table = schema.field_by_name[name].table or ""
        tables[table] = tables.get(table, 0) + count
    return {"fields": fields, "tables": tables}
