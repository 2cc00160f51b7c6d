"""The first look at the requests of a batch: what overlay and cache answer at once, and what they lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.rows.cache.miss_batch import Part
from pepnet_infer.rows.protocols import Rows
from pepnet_infer.rows.requests import NO_DEFAULTS, DefaultCounts, RowRequest

if TYPE_CHECKING:
    from pepnet_infer.rows.cache.cached_table import CachedTable

_ABSENT = 2  # the outcome of a key that is known not to exist

#: By table: changed rows that calls of one version see in front of the cache.
Overlays = Mapping[str, _kernels.RowOverlay]


class Look:
    """One request, looked up. Unless all rows were there, `part` is what to `serve`, and `finish` comes after it."""

    __slots__ = (
        "_job",
        "_offsets",
        "_rows",
        "defaults",
        "hits",
        "keys",
        "negative_hits",
        "overlay_defaults",
        "part",
        "place",
        "request",
        "table",
        "unavailable",
    )

    def __init__(
        self, request: RowRequest, table: CachedTable, job: _kernels.Job, answer: tuple[int, int, int]
    ) -> None:
        self.request, self.table, self._job = request, table, job
        self.place = (request.field, request.table)
        self.part: Part | None = None
        self.defaults = self.unavailable = self.negative_hits = 0
        self.hits, ours, self.overlay_defaults = answer
        outcomes = job[-1]
        if request.offsets is None:
            self.keys = len(outcomes) - ours
            if self.hits != self.keys:
                self.part = self._lacking(request.keys, request.out, outcomes)
                self.negative_hits = self.keys - self.hits - len(self.part.keys)
        else:
            first, last = int(request.offsets[0]), int(request.offsets[-1])
            self.keys = last - first - ours
            if self.hits != self.keys:
                self.negative_hits = int(np.count_nonzero(outcomes[first:last] == _ABSENT))
                self._gather(request.keys[first:last], request.offsets - first)

    def counts(self) -> DefaultCounts:
        """Returns how many keys got the default row, those among them that an overlay says are deleted."""
        defaults = self.defaults + self.overlay_defaults
        return DefaultCounts(defaults - self.unavailable, self.unavailable) if defaults else NO_DEFAULTS

    def finish(self, defaults: int, unavailable: int) -> None:
        """Pools what was served, if that was asked for."""
        self.defaults, self.unavailable = defaults, unavailable
        if self.request.offsets is not None:
            at, default = np.arange(len(self._rows)), self.table.default_row
            _kernels.pool(self._rows, at, self._offsets, self.request.pooling, default, self.request.out)

    def _gather(self, keys: _kernels.Keys, offsets: npt.NDArray[np.int64]) -> None:
        """Reads the rows of all bags again, one by one: what was there may be gone meanwhile, or the other way."""
        self._rows: Rows = np.empty((len(keys), self.table.dim), np.float32)
        self._offsets = offsets
        outcomes = np.empty(len(keys), np.uint8)
        _kernels.look_up([(*self._job[:3], keys, self._rows, None, "sum", outcomes)], False)
        self.part = self._lacking(keys, self._rows, outcomes)

    def _lacking(self, keys: _kernels.Keys, rows: Rows, outcomes: npt.NDArray[np.uint8]) -> Part:
        positions, asked, wanted = _kernels.lacking(keys, outcomes)
        return Part(rows, self.table.default_row, positions, asked, wanted)


def look_at(
    requests: Sequence[RowRequest],
    tables: Sequence[CachedTable],
    cores: Mapping[int, _kernels.RowCache],
    overlays: Overlays,
) -> list[Look]:
    """Looks all requests of a batch up, each of whose table is given."""
    jobs: list[_kernels.Job] = []
    for request, table in zip(requests, tables, strict=True):
        outcomes = np.empty(len(request.keys), np.uint8)
        overlay = overlays.get(request.table)
        jobs.append(
            (
                cores[table.dim],
                overlay,
                table.default_row,
                request.keys,
                request.out,
                request.offsets,
                request.pooling,
                outcomes,
            )
        )
    answers = _kernels.look_up(jobs)
    return [Look(*one) for one in zip(requests, tables, jobs, answers, strict=True)]
