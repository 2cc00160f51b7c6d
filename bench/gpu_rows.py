"""Ids → scores on a GPU, for gpu_check.py: rows that live there against rows that the host sends."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

#: As in preset kuaishou: 30 fields of ids, three of them in the prior too, one of the domain, numbers for the rest.
WIDTH, IDS, PRIOR = 40, 30, 3
ROWS = 1 << 16  # of each field's table
SHARES = {"rows on GPU": 0.0, "1 % missing": 0.01}  # way → of a batch's ids so many are not there


class OtherScores(Exception):
    """Scores that are not those of rows from the host."""


def fields_of(config: Any) -> list[Any]:
    """Returns the fields of a model with the widths of preset kuaishou."""
    from pepnet_infer.backends.cuda.rows import FieldOnDevice, Place

    widths = config.inputs
    fields = []
    for i in range(IDS):
        places = [Place("general", i * WIDTH), *([Place("prior", i * WIDTH)] if i < PRIOR else [])]
        fields.append(FieldOnDevice("id", WIDTH, i, tuple(places)))
    fields.append(FieldOnDevice("id", WIDTH, IDS, (Place("domain", 0),)))
    for name, first, width in (("general", IDS * WIDTH, widths.general), ("domain", WIDTH, widths.domain)):
        fields += [FieldOnDevice("dense", 1, 0, (Place(name, column),)) for column in range(first, width)]
    return fields


def time_ids(
    checks: Any,
    library: Any,
    config: Any,
    tensors: dict[str, np.ndarray],
    tasks: int,
    batches: tuple[int, ...],
    seconds: float,
) -> dict[str, dict[str, dict[str, float]]]:
    """Returns microseconds of calls from NumPy to NumPy, in turn and with fresh ids, by batch and way.

    rows on GPU: all are there; 1 % missing: of each batch's ids so many are not, and the host's side is that of the
    checks, in plain NumPy; rows from host: it sends inputs that were put together before. Raises OtherScores.
    """
    fields = fields_of(config)
    host = checks.Host(fields, ROWS)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for precision in ("fp32", "bf16"):
        plain = library.model(config, tasks, tensors, precision == "bf16", 0, True)
        devices = {}
        for way in SHARES:  # a model each: one that lacked something goes about the next call otherwise
            model = library.model(config, tasks, tensors, precision == "bf16", 0, True)
            devices[way] = checks.OnDevice(library, model, host, {WIDTH: (IDS + 1) * ROWS * 3 // 2})
            for field in fields[: IDS + 1]:
                for first in range(0, ROWS, 1 << 15):
                    devices[way].insert(WIDTH, host.key(field.number, np.arange(first, first + (1 << 15))))
        for rows in batches:
            took: dict[str, list[float]] = {}
            ends, number = time.monotonic() + seconds / (2 * len(batches)), 0
            while time.monotonic() < ends or number < 20:
                for way, seconds_of in _calls(checks, devices, plain, host, config, rows, number).items():
                    took.setdefault(f"{precision}, {way}", []).append(1e6 * seconds_of)
                number += 1
            for way, values in took.items():
                found.setdefault(str(rows), {})[way] = {
                    "p50_us": float(np.percentile(values[5:], 50)),
                    "p99_us": float(np.percentile(values[5:], 99)),
                    "rounds": len(values) - 5,
                }
    return found


def _calls(
    checks: Any, devices: dict[str, Any], plain: Any, host: Any, config: Any, rows: int, seed: int
) -> dict[str, float]:
    """Returns the seconds of one call each way. Raises OtherScores."""
    random, took = np.random.default_rng(seed), {}
    for way, device in devices.items():
        values: list[Any] = []
        dropped = []
        for field in device.fields:
            if field.kind == "dense":
                values.append(random.standard_normal(rows, dtype=np.float32))
                continue
            keys = host.key(field.number, random.integers(0, ROWS, rows))
            dropped.append(keys[random.random(rows) < SHARES[way]])
            values.append(keys)
        if SHARES[way]:
            device.rows.drop(WIDTH, np.concatenate(dropped))
        batch = checks.Batch(rows, values)
        given = device.given(batch)
        begin = time.perf_counter()
        scores = device.score(batch, given)
        took[way] = time.perf_counter() - begin
        inputs = host.inputs(config.inputs, batch)
        begin = time.perf_counter()
        expected = plain.run(*inputs)
        took["rows from host"] = time.perf_counter() - begin
        if not np.array_equal(scores, expected):
            raise OtherScores(f"ids → scores, {rows} rows, {way}: other scores than with rows from the host")
    return took


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Returns the figures as text."""
    ways = list(dict.fromkeys(way for batch in found.values() for way in batch))
    lines = [
        "ids → scores, from NumPy to NumPy, p50 (p99) µs a call",
        " ".join([f"{'':22}", *(f"{rows:>16}" for rows in found)]),
    ]
    for way in ways:
        cells = [f"{batch[way]['p50_us']:.1f} ({batch[way]['p99_us']:.1f})" for batch in found.values()]
        lines.append(" ".join([f"{way:22}", *(f"{cell:>16}" for cell in cells)]))
    return "\n".join(lines)
