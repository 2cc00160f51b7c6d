"""Ids → scores on a GPU: rows that live there against rows that the host sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.harness.measure import Row, Say, measure
from pepnet_infer.bench.harness.report import Table

#: As in preset kuaishou: 30 fields of ids, three of them in the prior too, one of the domain, numbers for the rest.
WIDTH, IDS, PRIOR = 40, 30, 3
ROWS = 1 << 16  # of each field's table
SHARES = {"rows on GPU": 0.0, "1 % missing": 0.01}  # way → of a batch's ids so many are not there
RUNS = 20  # timed calls of each way, at least
FROM_HOST = "rows from host"


@dataclass(frozen=True)
class Case:
    """A batch: as the kernels take it, as the host prepared it for them, and as inputs put together before."""

    batch: Any
    given: Any
    inputs: tuple[np.ndarray, ...]


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
    checks: Any, model_of: Callable[[str], Any], library: Any, config: Any, batches: tuple[int, ...], seconds: float,
    say: Say,
) -> Iterator[Row]:  # fmt: skip
    """Yields rows of calls from NumPy to NumPy, in turn and with fresh ids, by batch and way.

    rows on GPU: all are there; 1 % missing: of each batch's ids so many are not, and the host's side is that of the
    checks, in plain NumPy; rows from host: it sends inputs that were put together before. model_of: precision → a new
    model. Raises RuntimeError for scores that are not those of rows from the host.
    """
    fields = fields_of(config)
    host = checks.Host(fields, ROWS)
    for precision in ("fp32", "bf16"):
        plain, devices = model_of(precision), {}
        for way in SHARES:  # a model each: one that lacked something goes about the next call otherwise
            device = checks.OnDevice(library, model_of(precision), host, {WIDTH: (IDS + 1) * ROWS * 3 // 2})
            devices[f"{precision}, {way}"] = device
            for field in fields[: IDS + 1]:
                for part in np.array_split(np.arange(ROWS), max(1, ROWS >> 15)):
                    device.insert(WIDTH, host.key(field.number, part))
        for rows in batches:
            plan = Plan(RUNS, seconds / (2 * len(batches)), warm_calls=1, warm_s=0.0, settle_s=0.0)
            yield from _measure(checks, devices, plain, host, config, f"{precision}, {FROM_HOST}", rows, plan, say)


def _measure(
    checks: Any, devices: dict[str, Any], plain: Any, host: Any, config: Any, from_host: str, rows: int, plan: Plan,
    say: Say,
) -> Iterator[Row]:  # fmt: skip
    random = np.random.default_rng(rows)
    case = Case(None, None, ())

    def prepare(name: str, _: object) -> Case:
        """Draws a batch; ids that are to be missing are dropped from the device first."""
        nonlocal case
        device = devices.get(name)
        share = SHARES[name.partition(", ")[2]] if device is not None else 0.0
        values: list[Any] = []
        dropped = []
        for field in next(iter(devices.values())).fields:
            if field.kind == "dense":
                values.append(random.standard_normal(rows, dtype=np.float32))
            else:
                keys = host.key(field.number, random.integers(0, ROWS, rows))
                dropped.append(keys[random.random(rows) < share])
                values.append(keys)
        if device is not None and share:
            device.rows.drop(WIDTH, np.concatenate(dropped))
        batch = checks.Batch(rows, values)
        case = Case(batch, None if device is None else device.given(batch), host.inputs(config.inputs, batch))
        return case

    def check(name: str, _: int, scores: np.ndarray) -> None:
        if name != from_host and not np.array_equal(scores, plain.run(*case.inputs)):
            raise ValueError(f"ids → scores, {rows} rows, {name}: other scores than with rows from the host")

    def call_of(device: Any) -> Callable[[Case], np.ndarray]:
        return lambda case: device.score(case.batch, case.given)

    calls = {name: call_of(device) for name, device in devices.items()}
    calls[from_host] = lambda case: plain.run(*case.inputs)
    figures = measure(f"{rows} rows of ids", calls, [case], plan, say, prepare=prepare, check=check)
    for row in figures.rows.values():
        yield {**row, "batch": rows, "over_host": row["p50_ms"] / figures.rows[from_host]["p50_ms"]}


def table(found: list[Row]) -> Table:
    """Returns the figures."""
    columns = {"way": "{name}", "rows": "{batch:d}", "p50 ms": "{p50_ms:ms}", "p99 ms": "{p99_ms:ms}"}
    columns |= {"over rows from host": "{over_host:.2f}×", "runs": "{runs:d}"}
    return Table("ids → scores, from NumPy to NumPy", found, columns)
