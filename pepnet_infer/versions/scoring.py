"""What a call does with one version of a model: encoding, rows, the dense part, and what is counted of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.encoder import Encoded
from pepnet_infer.encode.features import Features
from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.inputs import Matrix
from pepnet_infer.scores import Scores
from pepnet_infer.versions.counters import Counters, Stopwatch
from pepnet_infer.versions.model_version import ModelVersion

_Result = TypeVar("_Result")


class Taker(Protocol):
    """Takes some rows of calls, now and then: the guard of a follower."""

    @property
    def wants(self) -> bool:
        """Whether `offer` would keep anything now."""

    def offer(self, features: Features) -> None:
        """Keeps some of the rows, or none."""


class Scoring:
    """Of one engine. Every method takes the version that the call holds; any thread may call."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def score(self, parts: ModelVersion, taker: Taker | None, batch: object, strict: bool) -> Scores:
        """Returns the scores of a batch; see `Engine.score`."""
        watch = Stopwatch()
        with watch.stage("encode"):
            features = encode(parts, batch, strict)
        if taker is not None:
            taker.offer(features)
        return self._finish(parts, watch, features)

    def rank(
        self,
        parts: ModelVersion,
        taker: Taker | None,
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
        if taker is not None and taker.wants:
            taker.offer(shared.repeat(per_item.num_rows).merge(per_item))
        return self._finish(parts, watch, per_item, shared)

    def score_features(self, parts: ModelVersion, taker: Taker | None, features: Features) -> Scores:
        """Returns the scores of a batch that is encoded; see `Engine.score_features`."""
        if not isinstance(features, Features):  # such as the whole of what `encode_rows` returns
            wanted = "what Engine.encode returns, or `features` of what Engine.encode_rows does"
            raise SchemaError(f"features: expected {wanted}, got {type(features).__name__}")
        if taker is not None:
            taker.offer(features)
        return self._finish(parts, Stopwatch(), features)

    def encoded(
        self, parts: ModelVersion, work: Callable[[ModelVersion, object, bool], _Result], batch: object, strict: bool
    ) -> _Result:
        """Returns what `work` makes of a batch, `encode` or `encode_rows`, and counts its time."""
        watch = Stopwatch()
        with watch.stage("encode"):
            result = work(parts, batch, strict)
        self._counters.add(0, 0, watch.spent.values())
        return result

    def invalid(self, values: Matrix) -> npt.NDArray[np.bool_] | None:
        """Returns the rows of which a score is no number in [0, 1], counted; None: there is none."""
        invalid = _kernels.rows_without_probability(values)
        if invalid is not None:
            self._counters.add_invalid(int(np.count_nonzero(invalid)))
        return invalid

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
        self._counters.add(1, len(values), watch.spent.values(), unknown, unavailable)
        return Scores(
            values, parts.bundle.schema.tasks, parts.model_version, unknown, unavailable, self.invalid(values)
        )


def encode(parts: ModelVersion, batch: object, strict: bool) -> Features:
    """Returns a batch's features. Raises SchemaError."""
    return parts.encoder.encode(read_columns(batch, parts.encoder.columns, strict))


def encode_rows(parts: ModelVersion, batch: object, strict: bool) -> Encoded:
    """Returns features, which rows are bad, and why; only what is wrong with a whole column raises."""
    return parts.encoder.encode_rows(read_columns(batch, parts.encoder.columns, strict))
