"""Online training: what rows and weights that follow a trainer are worth, hour by hour, on a real log.

    PEPNET_KUAIRAND=DIR python examples/online.py --out OUT

One process trains: the first day as a whole, then pass by pass, each exposure once and in the order of the log. It
publishes what each pass changed. A second process, online_serve.py, serves the same exposures with engines that follow:
those of a pass first, by versions that have learnt the passes before it and nothing later; then the trainer publishes
that pass. The second process never sees a label. Its engines differ in what they follow.

docs/online.md says which there are, what came out, and what is real here. The clock is not: each side waits for the
other, so that the figures do not depend on how fast a machine is, and cache and publisher are told the time of the log.
Deltas take about 4 MB a pass in the temporary folder, which goes at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from msgspec import structs
from online_report import ModelVersion, plot, tables
from online_serve import FIRST_VERSION, PATIENCE_S, VARIANTS
from rich.progress import Progress

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.export.publish.publisher import Publisher
from pepnet_infer.rows.gset import Gset
from pepnet_infer.schema.ids import Keys
from pepnet_infer.sync import DirectoryLog
from pepnet_infer.sync.delta import open_delta, write_delta

if TYPE_CHECKING:
    from pepnet_infer.export.data.dataset import Dataset
    from pepnet_infer.export.train.online import Floats, Learnt, OnlineTrainer

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
STEP = 256  # exposures in a step of training
STABLE = 20  # positives a day of a task that is shown
BYTES_BESIDE = 24  # what the cache takes for a row beside its numbers
PAIRS = [("dense only", "frozen"), ("rows only", "frozen"), ("both", "frozen"), ("both", "dense only")]
PAIRS += [("both", "rows only"), ("both, gset", "both"), ("both, gset", "both, lru"), ("both, gset", "both, lfu")]

#: Exposures [begin, end) of a pass in the order of time, and the time when it ends. Pass 0 is the first day.
Pass = tuple[int, int, int]


def read_log(options: argparse.Namespace) -> tuple[Dataset, OnlineTrainer, list[Pass]]:
    """Reads the log, and cuts it by its clock; means and deviations of numbers are fitted to the first day."""
    from pepnet_infer.export.data.dataset import build_dataset
    from pepnet_infer.export.data.source import open_source
    from pepnet_infer.export.run_config import RunConfig, Split, model_config
    from pepnet_infer.export.train.online import OnlineTrainer

    run, source = RunConfig.read(options.config), open_source(options.data, options.seed)
    log = source.interactions()
    times = log[source.time_column].to_numpy()
    start = int(times[0]) // HOUR_MS * HOUR_MS
    log = log.slice(0, int(np.searchsorted(times, start + options.days * DAY_MS)))
    source.interactions = lambda: log  # type: ignore[method-assign]
    second = int(np.unique(log[source.day_column].to_numpy())[1])
    settings = structs.replace(run.train, split=Split(test=second), batch=STEP)
    dataset = build_dataset(source, run.schema, settings)
    trainer = OnlineTrainer(dataset, model_config(run.model, dataset.schema), settings, options.seed)
    step = round(options.every * HOUR_MS)
    ends = [*range(start + DAY_MS, int(dataset.times[-1]) + step + 1, step)]
    cuts = [0, *np.searchsorted(dataset.times, ends).tolist()]
    passes = [each for each in zip(cuts, cuts[1:], ends, strict=False) if each[0] < each[1]]  # hours without exposures
    return dataset, trainer, passes


def prepare(dataset: Dataset, trainer: OnlineTrainer, passes: list[Pass], share: float, folder: Path) -> dict[str, Any]:
    """Learns the first day and writes what the serving process begins with. Returns the plan."""
    from pepnet_infer.export.bundle.write_bundle import write_bundle

    _, first, ends = passes[0]
    trainer.learn(np.arange(first), ends)
    write_bundle(trainer.checkpoint({}), folder / "bundle", model_version=FIRST_VERSION, int8_budget=None)
    features = dataset.log.select([name for name in dataset.log.column_names if name in dataset.schema.columns])
    pq.write_table(features.slice(first), folder / "traffic.parquet")
    dims = {table.name: table.dim for table in dataset.schema.tables}
    needed = sum(count * (4 * dims[name] + BYTES_BESIDE) for name, count in trainer.most_rows.items())
    gset = trainer.settings.gset
    plan = {
        "passes": [(begin - first, end - first, dataset.times[begin] / 1000) for begin, end, _ in passes[1:]],
        "rows": sum(trainer.most_rows.values()),
        "needed": needed,
        "capacity": int(share * needed),
        "gset": {"beta": gset.beta, "r": gset.r, "interval": gset.interval},
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    return plan


class Logs:
    """The log that is published to, and two that have of each delta the weights alone and the rows alone."""

    def __init__(self, folder: Path, scoring: Gset, now: float) -> None:
        self._folder, self._bundle = folder, Bundle.open(folder / "bundle")
        self._logs = {name: DirectoryLog(folder / name, create=True) for name in ("both", "dense", "rows")}
        self._now, self._position = now, ""
        # The publisher's clock is that of the log: scores decay, and pushes are limited, by the time of the exposures.
        self._publisher = Publisher(self._logs["both"], self._bundle, scoring=scoring, clock=lambda: self._now)

    def publish(self, learnt: Learnt, rows: Callable[[str, Keys], Floats], now: float) -> None:
        """Publishes what a pass that ended at `now`, Unix seconds, has changed."""
        self._now = now
        for name, part in learnt.tables.items():
            ids = np.concatenate([np.repeat(part.keys, part.positives), np.repeat(part.keys, part.negatives)])
            self._publisher.touch(name, ids, np.arange(len(ids)) < part.positives.sum())
        defaults = {name: part.default for name, part in learnt.tables.items() if part.default is not None}
        if self._publisher.publish(rows, learnt.dense, defaults=defaults) is None:
            raise SystemExit("publisher: expected a delta with weights, got none")
        (entry,) = self._logs["both"].read(self._position)
        self._position = entry.position
        delta = open_delta(entry.path, self._bundle.schema, self._bundle.config)
        for name, halves in (("dense", ({}, delta.dense)), ("rows", (delta.rows, None))):
            made = write_delta(self._folder / "made", delta.head, *halves)
            self._logs[name].append(made)
            shutil.rmtree(made)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Callable[[int], None]]:
    """Runs the serving process. Yields what waits until it has scored a pass."""
    command = [sys.executable, str(Path(__file__).with_name("online_serve.py")), str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:

        def scored(number: int) -> None:
            line = process.stdout.readline() if process.stdout else ""
            if line.strip() != str(number):
                raise SystemExit(f"serving process: expected pass {number} to be scored, got {line!r}")

        try:
            yield scored
            if process.wait(PATIENCE_S) != 0:
                raise SystemExit(f"serving process: expected it to end well, got {process.returncode}")
        finally:
            process.kill()


def by_task(dataset: Dataset, passes: list[Pass], scores: Any) -> dict[str, ModelVersion]:
    """Returns labels and scores [V, N, T] by task, those with enough of both kinds of labels."""
    days = (dataset.times - dataset.times[0] // HOUR_MS * HOUR_MS) // DAY_MS
    served = slice(passes[0][1], None)
    tasks = {}
    for place, task in enumerate(dataset.schema.tasks):
        labels = dataset.labels[served, place] > 0.5
        if min(labels.sum(), (~labels).sum()) >= STABLE * len(np.unique(days)):
            columns = days[served], dataset.users[served], dataset.domains[served]
            tasks[task] = ModelVersion(labels, scores[:, :, place], *columns)
    return tasks


def facts(plan: dict[str, Any], stats: dict[str, Any]) -> str:
    """Returns in words what the engines held and how fresh they were."""
    lines = []
    for variant in VARIANTS:
        cache, sync = stats[variant.name]["cache"], stats[variant.name]["sync"]
        total = cache["total"]
        said = f"{variant.name}: {1 - total['defaults'] / total['keys']:.2%} of the ids asked for had a row"
        if variant.policy is not None:
            said += f"; {cache['capacity_rows'] / plan['rows']:.1%} of all rows fit,"
            said += f" {cache['memory_bytes'] / plan['needed']:.1%} of their bytes"
        if sync is not None:
            said += f"; {sync['applied']} deltas, {sync['rows']:,} rows, {sync['bytes'] / 1e6:.0f} MB applied"
        lines.append(f"- {said}")
    return "\n".join(lines) + f"\n\nIn the end {plan['rows']:,} ids have a row."


def main() -> None:
    """Reads options, runs both processes, writes tables and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.environ.get("PEPNET_KUAIRAND")
    parser.add_argument("--data", default=f"kuairand:{here}" if here else None, help="default: $PEPNET_KUAIRAND")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("kuairand.yaml"))
    parser.add_argument("--out", type=Path, default=Path("online-out"), help="folder for table and plot")
    parser.add_argument("--every", type=float, default=1.0, help="hours in a pass")
    parser.add_argument("--days", type=int, default=10_000, help="of the log, at most")
    parser.add_argument("--share", type=float, default=0.2, help="of the memory of all rows, for the bounded caches")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="three days, passes of six hours")
    options = parser.parse_args()
    if options.data is None:
        parser.error("expected --data, or PEPNET_KUAIRAND to name a folder, got neither")
    if options.quick:
        options.every, options.days = 6.0, 3

    import torch

    torch.set_num_threads(1)
    began = time.perf_counter()
    dataset, trainer, passes = read_log(options)
    with tempfile.TemporaryDirectory(prefix="pepnet-online-") as name:
        folder = Path(name)
        plan = prepare(dataset, trainer, passes, options.share, folder)
        logs = Logs(folder, Gset(**plan["gset"]), passes[0][2] / 1000)
        with serving(folder) as scored, Progress(transient=True) as progress:
            for number, (begin, end, ends) in enumerate(progress.track(passes[1:], description="passes"), 1):
                learnt = trainer.learn(np.arange(begin, end), ends)  # beside the serving process
                scored(number - 1)
                if number < len(passes) - 1:
                    logs.publish(learnt, trainer.rows, ends / 1000)
        tasks = by_task(dataset, passes, np.load(folder / "scores.npy"))
        said = facts(plan, json.loads((folder / "stats.json").read_text()))
    names = [variant.name for variant in VARIANTS]
    text = "\n\n".join([*tables(names, tasks, PAIRS), said, f"{time.perf_counter() - began:.0f} s in all."])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "online.md").write_text(text + "\n", encoding="utf-8")
    task = next(iter(tasks))
    title = f"AUC of {task}, scored before it was learnt: passes of {options.every:g} h"
    plot(options.out / "online.png", title, names, [names[:4], names[3:]], tasks[task])
    print(text)


if __name__ == "__main__":
    main()
