"""What rows on the device must do, whatever runs the kernels; the host's side of it in plain NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from cuda_checks import model_of
from small_networks import TASKS, config_of

from pepnet_infer._kernels import CudaFeatures, CudaLibrary, CudaModel, CudaWaiting
from pepnet_infer.backends.cuda.rows import DeviceRows, FieldOnDevice, Place
from pepnet_infer.schema.network_config import InputWidths, ModelConfig
from pepnet_infer.schema.row_batch import RowBatch

INPUTS = ("general", "domain", "prior")
MISSING = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


@dataclass(frozen=True)
class Batch:
    """Of each field keys uint64 [B], (keys, offsets) for bags, or numbers float32 [B]."""

    rows: int
    values: Sequence[np.ndarray | tuple[np.ndarray, np.ndarray]]


class Host:
    """Tables in memory: id i of table t has row i, unless it is over the end."""

    def __init__(self, fields: Sequence[FieldOnDevice], rows: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.fields, self.rows = fields, rows
        widths = {f.number: f.width for f in fields if f.kind != "dense"}
        self.tables = {n: random.standard_normal((rows, w), dtype=np.float32) for n, w in widths.items()}
        self.defaults = {n: random.standard_normal(w, dtype=np.float32) for n, w in widths.items()}

    def key(self, number: int, ids: np.ndarray) -> np.ndarray:
        return ids.astype(np.uint64) | np.uint64(number << 48)

    def look_up(self, number: int, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows and which of them are the default row."""
        ids = (keys & np.uint64((1 << 48) - 1)).astype(np.int64)
        absent = (ids >= self.rows) | (keys >> np.uint64(48) != number)
        rows = self.tables[number][np.where(absent, 0, ids)]
        rows[absent] = self.defaults[number]
        return rows, absent

    def columns(self, field: FieldOnDevice, value: np.ndarray | tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Returns a field's columns [B, width]; bags are added up one by one."""
        if field.kind == "dense":
            assert isinstance(value, np.ndarray)
            return value[:, None]
        if isinstance(value, np.ndarray):
            return self.look_up(field.number, value)[0]
        keys, offsets = value
        rows, pooled = self.look_up(field.number, keys)[0], np.zeros((len(offsets) - 1, field.width), np.float32)
        for b, (first, last) in enumerate(pairwise(offsets)):
            for row in rows[first:last]:
                pooled[b] += row
            if field.kind == "mean" and last - first > 1:
                pooled[b] /= np.float32(last - first)
        return pooled

    def inputs(self, widths: InputWidths, batch: Batch) -> list[np.ndarray]:
        """Returns general, domain and prior."""
        made = {name: np.zeros((batch.rows, getattr(widths, name)), np.float32) for name in INPUTS}
        for field, value in zip(self.fields, batch.values, strict=True):
            columns = self.columns(field, value)
            for place in field.places:
                made[place.input][:, place.column : place.column + field.width] = columns
        return [made[name] for name in INPUTS]


class OnDevice:
    """A model that scores batches with rows on the device, and asks the host for what lacks."""

    def __init__(
        self, library: CudaLibrary, model: CudaModel, host: Host, entries: Mapping[int, int], gpu: int = 0
    ) -> None:
        self.model, self.host, self.fields = model, host, host.fields
        self.rows = DeviceRows(library, entries, False, gpu)
        model.attach(self.rows, self.fields)
        self.lacked = 0
        self.unknown = np.zeros(len(self.fields), np.uint32)

    def given(self, batch: Batch) -> CudaFeatures:
        """Returns what points to a batch's arrays."""
        features: list[tuple[int, np.ndarray | None, np.ndarray | None, np.ndarray | None, bool]] = []
        for i, (field, value) in enumerate(zip(self.fields, batch.values, strict=True)):
            keys, offsets = value if isinstance(value, tuple) else (value, None)
            features.append((i, None, None, keys, False) if field.kind == "dense" else (i, keys, offsets, None, False))
        defaults = [None if field.kind == "dense" else self.host.defaults[field.number] for field in self.fields]
        return CudaFeatures(features, defaults, batch.rows)

    def score(self, batch: Batch, given: CudaFeatures | None = None) -> np.ndarray:
        """Returns scores [B, T]."""
        scores = np.empty((batch.rows, TASKS), np.float32)
        waiting = self.model.score(self.given(batch) if given is None else given, 0, batch.rows, scores, self.unknown)
        if waiting is not None:
            self.lacked += len(waiting.lacking)
            self._finish(waiting, batch)
        return scores

    def _finish(self, waiting: CudaWaiting, batch: Batch) -> None:
        lacking = waiting.lacking
        ats, begins, values, size, new = [], [], [], 0, dict[int, list[np.ndarray]]()
        for number in np.unique(lacking % len(self.fields)):
            field, value = self.fields[number], batch.values[number]
            at = lacking[lacking % len(self.fields) == number]
            rows = at // len(self.fields)
            if isinstance(value, tuple):
                keys = np.concatenate([value[0][value[1][r] : value[1][r + 1]] for r in rows])
                offsets = np.concatenate([[0], np.cumsum([value[1][r + 1] - value[1][r] for r in rows])])
                columns = self.host.columns(field, (keys, offsets))
            else:
                keys = value[rows]
                columns = self.host.columns(field, keys)
            self.unknown[number] += np.count_nonzero(self.host.look_up(field.number, keys)[1])
            ats.append(at)
            begins.append(size + field.width * np.arange(len(at)))
            values.append(columns.ravel())
            size += columns.size
            new.setdefault(field.width, []).append(keys)
        at, begin = (np.concatenate(x).astype(np.uint32) for x in (ats, begins))
        waiting.finish(at, begin, np.concatenate(values))
        for width, keys_of in new.items():
            self.insert(width, np.unique(np.concatenate(keys_of)), waiting.generation)

    def insert(self, width: int, keys: np.ndarray, generation: int | None = None) -> None:
        """Puts rows of distinct keys in, or that there are none."""
        keys = keys[[int(key >> np.uint64(48)) in self.host.tables for key in keys]]
        rows, absent = np.empty((len(keys), width), np.float32), np.zeros(len(keys), np.bool_)
        for number in np.unique(keys >> np.uint64(48)):
            some = keys >> np.uint64(48) == number
            rows[some], absent[some] = self.host.look_up(int(number), keys[some])
        new = RowBatch.of(rows, keys=keys, found=~absent)
        asked = self.rows.generation if generation is None else generation
        assert insert(self.rows, new, asked)


def insert(rows: DeviceRows, new: RowBatch, generation: int, high: np.ndarray | None = None) -> bool:
    """Puts rows in, or that there are none; `high`: those that never make room."""
    never = np.zeros(len(new.keys), np.bool_) if high is None else high
    return rows.insert(new.keys, new.rows, new.found, never, new.scores, new.expires, generation)


def small_fields() -> tuple[ModelConfig, list[FieldOnDevice]]:
    """A field of each kind, in one input, two and three."""
    fields = [
        FieldOnDevice("id", 7, 3, (Place("general", 0), Place("prior", 0))),
        FieldOnDevice("id", 40, 0, (Place("general", 7),)),
        FieldOnDevice("mean", 7, 3, (Place("general", 47),)),
        FieldOnDevice("sum", 40, 1, (Place("general", 54), Place("domain", 0), Place("prior", 7))),
        FieldOnDevice("dense", 1, 0, (Place("general", 94), Place("prior", 47))),
        FieldOnDevice("id", 40, 1, (Place("domain", 40),)),
    ]
    return config_of(widths=(95, 80, 48)), fields


def batch_of(fields: Sequence[FieldOnDevice], host: Host, rows: int, ids: int, seed: int) -> Batch:
    """Ids below `ids`, a few without a row, a few that are none."""
    random, values = np.random.default_rng(seed), list[np.ndarray | tuple[np.ndarray, np.ndarray]]()
    for field in fields:
        if field.kind == "dense":
            values.append(random.standard_normal(rows, dtype=np.float32))
            continue
        count = rows
        if field.kind != "id":
            lengths = random.integers(0, 6, rows)
            lengths[random.random(rows) < 0.1] = 70
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            count = int(offsets[-1])
        drawn = random.integers(0, ids, count)
        drawn[random.random(count) < 0.05] = host.rows + random.integers(0, 3)
        drawn[random.random(count) < 0.02] += 1 << 35  # of two words, and without a row
        keys = host.key(field.number, drawn)
        keys[random.random(count) < 0.03] = MISSING
        others = host.key(1 - field.number if field.number < 2 else 9, drawn)  # of another table, of the same width
        keys = np.where(random.random(count) < 0.03, others, keys)
        values.append(keys if field.kind == "id" else (keys, offsets))
    return Batch(rows, values)


def rows_on_device(library: CudaLibrary, precision: str, counts: Sequence[int], gpu: int = 0) -> str:
    """Scores have the bits of those with inputs from the host, whatever is on the device. Returns what was done."""
    config, fields = small_fields()
    host = Host(fields, 50)
    model, plain = (model_of(library, config, precision, gpu=gpu) for _ in range(2))
    for entries in (400, 24):
        device = OnDevice(library, model, host, {7: entries, 40: entries}, gpu)
        model = model_of(library, config, precision, graphs=False, gpu=gpu)  # for the next
        for seed, count in enumerate([*counts, *counts]):
            batch = batch_of(fields, host, count, 50, seed % len(counts))
            expected = plain.run(*host.inputs(config.inputs, batch))
            device.unknown[:] = 0
            np.testing.assert_array_equal(device.score(batch), expected)
            for number, (field, value) in enumerate(zip(fields, batch.values, strict=True)):
                keys = value[0] if isinstance(value, tuple) else value
                absent = 0 if field.kind == "dense" else np.count_nonzero(host.look_up(field.number, keys)[1])
                assert device.unknown[number] == absent
        assert device.lacked > 0
    return f"{precision}: rows on the device, {len(counts)} row counts, with room for all and for few"
