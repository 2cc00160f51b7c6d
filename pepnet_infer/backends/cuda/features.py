"""Scores from ids on the GPU: what it lacks is asked of the host's rows, patched in, and kept there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.backends.cuda.rows import DeviceRows, FieldOnDevice, Place
from pepnet_infer.encode.features import Features
from pepnet_infer.errors import SchemaError
from pepnet_infer.rows.assemble import Defaulted, by_field, check_fields, names
from pepnet_infer.rows.cache.cached_rows import CachedRows
from pepnet_infer.rows.protocols import DefaultCounts, RowRequest, Rows, RowSource
from pepnet_infer.rows.version_rows import VersionRows
from pepnet_infer.schema.feature_schema import INPUTS, FeatureSchema
from pepnet_infer.schema.ids import Keys

#: Rows in one call of the library: its largest bucket.
MOST_ROWS = 2048
_ROW, _ABSENT = 1, 2  # outcomes of `RowCache.lookup`


def fields_on_device(schema: FeatureSchema) -> list[FieldOnDevice]:
    """Returns the fields of a schema as the library wants them, in the schema's order."""
    places: dict[str, list[Place]] = {spec.name: [] for spec in schema.fields}
    for name in INPUTS:
        for slot in schema.layout[name]:
            places[slot.field.name].append(Place(name, slot.offset))
    found = []
    for spec in schema.fields:
        kind = spec.kind if spec.kind != "bag" else spec.pooling
        number = 0 if spec.table is None else schema.table_by_name[spec.table].number
        found.append(FieldOnDevice(kind, schema.width(spec), number, tuple(places[spec.name])))
    return found


class FeatureScorer:
    """Features → scores, for one version of a model. Any thread may call.

    Same scores as rows from the host would give, bit for bit: bags are added up in the same order.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        tasks: int,
        model: _kernels.CudaModel,
        device: DeviceRows,
        rows: RowSource,
    ) -> None:
        """model: attached to `device` with `fields_on_device(schema)`. rows: what lacks comes from its cache."""
        assert isinstance(rows, CachedRows | VersionRows)  # as `cache_of` found
        self.epoch = device.epoch
        self._schema, self._tasks, self._model, self._device = schema, tasks, model, device
        self._rows = rows
        self._cached = rows.cached if isinstance(rows, VersionRows) else rows
        self._overlay = rows.overlay if isinstance(rows, VersionRows) else None
        self._tables = rows.tables
        self._specs = schema.fields
        self._columns = {spec.name: i for i, spec in enumerate(self._specs)}
        self._embedded = [i for i, spec in enumerate(self._specs) if spec.table is not None]
        self._counted = tuple(self._specs[i].name for i in self._embedded)

    def score(self, features: Features, shared: Features | None = None) -> tuple[Rows, dict[str, int], dict[str, int]]:
        """Returns scores float32 [B, T] and, by field, how many ids are unknown and how many unavailable.

        shared: fields of one row that all B rows have. Together they hold every field of the schema once. Raises
        SchemaError, StoreError, BackendError.
        """
        rows = features.num_rows
        check_fields(self._columns, names(features), () if shared is None else names(shared))
        given = self._given(features, shared)
        scores = np.empty((rows, self._tasks), np.float32)
        unknown = np.zeros(len(self._specs), np.uint32)  # by the device
        lacking = np.zeros(len(self._specs), np.int64)
        host: Defaulted = []
        for first in range(0, rows, MOST_ROWS):
            waiting = self._model.score(given, first, min(MOST_ROWS, rows - first), scores, unknown)
            for request, defaults in () if waiting is None else self._finish(waiting, features, shared, first):
                lacking[self._columns[request.field]] += len(request.keys)
                host.append((request.field, defaults))
        self._device.count(self._counted, np.stack([given.counts, lacking, unknown], axis=1)[self._embedded])
        there = [(self._specs[i].name, DefaultCounts(int(unknown[i]), 0)) for i in np.flatnonzero(unknown)]
        return scores, *by_field([*there, *host])

    def _given(self, features: Features, shared: Features | None) -> _kernels.CudaFeatures:
        """Returns what there is of each field, as the library has it."""
        columns = self._columns
        given: list[tuple[int, Keys | None, npt.NDArray[np.int64] | None, Rows | None, bool]] = []
        for one in (features,) if shared is None else (features, shared):
            is_shared = one is shared
            given += [(columns[name], keys, None, None, is_shared) for name, keys in one.ids.items()]
            given += [(columns[name], bag.keys, bag.offsets, None, is_shared) for name, bag in one.bags.items()]
            given += [(columns[name], None, None, values, is_shared) for name, values in one.dense.items()]
        defaults = [None if spec.table is None else self._tables[spec.table].default_row for spec in self._specs]
        try:
            return _kernels.CudaFeatures(given, defaults, features.num_rows)
        except ValueError as error:
            raise SchemaError(f"features: {error}") from error

    def _finish(
        self, waiting: _kernels.CudaWaiting, features: Features, shared: Features | None, first: int
    ) -> list[tuple[RowRequest, DefaultCounts]]:
        """Scores rows from `first` on with what the device lacks. Returns what was asked of the host for them, and how
        many of these keys got the default row."""
        with waiting:
            requests, at = _requests(self._schema, waiting.lacking, features, shared, first)
            counts = self._rows.answer(requests)
            values = np.concatenate([request.out.ravel() for request in requests])
            widths = np.repeat([request.out.shape[1] for request in requests], [len(r.out) for r in requests])
            waiting.finish(at, (np.cumsum(widths) - widths).astype(np.uint32), values)
            generation = waiting.generation
        self._keep(requests, generation)  # by now the next call may have what this one ran with
        return list(zip(requests, counts, strict=True))

    def _keep(self, requests: Sequence[RowRequest], generation: int) -> None:
        """Puts what the host's cache holds by now on the device too.

        Not what was answered: for a row that came too late, or not at all, that was the default row.
        """
        if self.epoch != self._device.epoch:
            return
        by_width: dict[int, list[Keys]] = {}
        for request in requests:
            keys = request.keys
            if self._overlay is not None and request.table in self._overlay.rows:
                keys = keys[self._overlay.find(request.table, keys) < 0]  # others' rows are of this version alone
            by_width.setdefault(self._tables[request.table].dim, []).append(keys)
        for width, some in by_width.items():
            distinct = _kernels.distinct(np.concatenate(some))[0]
            rows, outcomes = np.zeros((len(distinct), width), np.float32), np.zeros(len(distinct), np.uint8)
            core = self._cached.caches[width].core
            core.lookup(distinct, rows, outcomes, False)
            known = core.peek(distinct)
            # What has left between the two is left out: until when it held is not known.
            there = ((outcomes == _ROW) | (outcomes == _ABSENT)) & (known["outcome"] == outcomes)
            if not there.any():
                continue
            keys, found = distinct[there], outcomes[there] == _ROW
            high, scores, expires = (known[name][there] for name in ("high_priority", "score", "expires"))
            if not self._device.insert(keys, rows[there], found, high, scores, expires, generation):
                return


def _requests(
    schema: FeatureSchema,
    lacking: npt.NDArray[np.uint32],
    features: Features,
    shared: Features | None,
    first: int,
) -> tuple[list[RowRequest], npt.NDArray[np.uint32]]:
    """Returns requests for what the device lacks of rows from `first` on, and where their answers go, in order."""
    requests: list[RowRequest] = []
    at: list[npt.NDArray[np.uint32]] = []  # of each request
    fields, rows = lacking % len(schema.fields), lacking // len(schema.fields)
    for number in np.unique(fields):
        spec = schema.fields[int(number)]
        assert spec.table is not None
        one = features if spec.name in features.ids or spec.name in features.bags else shared
        assert one is not None
        wanted = rows[fields == number].astype(np.int64) + (0 if one is shared else first)
        out = np.empty((len(wanted), schema.width(spec)), np.float32)
        if spec.kind == "id":
            requests.append(RowRequest(spec.name, spec.table, one.ids[spec.name][wanted], out))
        else:
            bag = one.bags[spec.name].take(wanted)
            requests.append(RowRequest(spec.name, spec.table, bag.keys, out, bag.offsets, spec.pooling))
        at.append(lacking[fields == number])
    return requests, np.concatenate(at)
