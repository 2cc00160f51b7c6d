"""What an engine has done, counted so that it can be read while it works."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from time import perf_counter_ns
from typing import Any

from pepnet_infer._kernels import Tally
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.stats import CallCounts, DefaultedIds
from pepnet_infer.throttled_warnings import Seldom

STAGES = ("encode", "lookup", "dense")
_LOG = logging.getLogger("pepnet_infer.engine")
_CAUSE = "their inputs or embedding rows are no numbers or overflow float32"
_ENGINE, _UNKNOWN, _UNAVAILABLE = "engine", "unknown", "unavailable"  # what sums are of


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


class Counters:
    """Totals since the engine was loaded. Each count is one addition that nothing can interrupt."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._warnings = Seldom()

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
        if unknown:
            items += [((_UNKNOWN, name), (count,)) for name, count in unknown.items()]
        if unavailable:
            items += [((_UNAVAILABLE, name), (count,)) for name, count in unavailable.items()]
        self._tally.add(items)

    def add_invalid(self, rows: int) -> None:
        """Counts rows of which a score is no number in [0, 1], and logs a warning, the next one a minute later."""
        self._tally.add([(_ENGINE, (0, 0, 0, rows))])
        if self._warnings.due():
            total = self._tally.read()[_ENGINE][3]
            _LOG.warning("%d rows have scores that are no numbers in [0, 1], of %d so far: %s", rows, total, _CAUSE)

    def add_error(self) -> None:
        """Counts one call that raised."""
        self._tally.add([(_ENGINE, (0, 0, 1))])

    def __enter__(self) -> None:
        """Begins a call: `with counters:` counts it if it raises, and lets the exception pass."""

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            self.add_error()

    def read(self, schema: FeatureSchema) -> CallCounts:
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


def _by_table(kind: str, sums: Mapping[Any, tuple[int, ...]], schema: FeatureSchema) -> DefaultedIds:
    """Returns counts of a kind by field, and their sums by table."""
    fields = {name: count for (which, name), (count,) in sums.items() if which == kind}
    tables: dict[str, int] = {}
    for name, count in fields.items():
        table = schema.field_by_name[name].table or ""
        tables[table] = tables.get(table, 0) + count
    return {"fields": fields, "tables": tables}
