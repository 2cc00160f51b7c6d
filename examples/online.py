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
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import structs
from online_serve import FIRST_VERSION, VARIANTS, serve
from rich.progress import track

from pepnet_infer.bench.cache.quality import weighted_aucs
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.export.publish.publisher import Publisher
from pepnet_infer.export.train.metrics import ALL, Cell, evaluate
from pepnet_infer.rows.gset import Gset
from pepnet_infer.schema.ids import Keys
from pepnet_infer.sync import DirectoryLog

if TYPE_CHECKING:
    from pepnet_infer.export.data.dataset import Dataset
    from pepnet_infer.export.train.online import Floats, Learnt, OnlineTrainer

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
STEP = 256  # exposures in a step of training
RESAMPLES = 200
STABLE = 20  # positives a day of a task that is shown
BYTES_BESIDE = 24  # what the cache takes for a row beside its numbers
NAMES = list(VARIANTS)
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


def prepare(
    dataset: Dataset, trainer: OnlineTrainer, passes: list[Pass], share: float, folder: Path
) -> tuple[dict[str, Any], pa.Table]:
    """Learns the first day and writes its bundle. Returns the plan, and the exposures to serve without their labels."""
    from pepnet_infer.export.bundle.write_bundle import write_bundle

    _, first, ends = passes[0]
    trainer.learn(np.arange(first), ends)
    write_bundle(trainer.checkpoint({}), folder / "bundle", model_version=FIRST_VERSION, int8_budget=None)
    features = dataset.log.select([name for name in dataset.log.column_names if name in dataset.schema.columns])
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
    return plan, features.slice(first)


class Publishers:
    """One for each log: what a pass changes, its weights alone, and its rows alone."""

    def __init__(self, folder: Path, scoring: Gset, now: float) -> None:
        base, self._now = Bundle.open(folder / "bundle"), now
        # Their clock is that of the log: scores decay, and pushes are limited, by the time of the exposures.
        self._publishers = {
            name: Publisher(DirectoryLog(folder / name, create=True), base, scoring=scoring, clock=lambda: self._now)
            for name in ("both", "dense", "rows")
        }

    def publish(self, learnt: Learnt, rows: Callable[[str, Keys], Floats], now: float) -> None:
        """Publishes what a pass that ended at `now`, Unix seconds, has changed."""
        self._now = now
        for log, publisher in self._publishers.items():
            defaults: dict[str, Floats] = {}
            for name, part in learnt.tables.items() if log != "dense" else ():
                ids = np.concatenate([np.repeat(part.keys, part.positives), np.repeat(part.keys, part.negatives)])
                publisher.touch(name, ids, np.arange(len(ids)) < part.positives.sum())
                if part.default is not None:
                    defaults[name] = part.default
            if publisher.publish(rows, learnt.dense if log != "rows" else None, defaults=defaults) is None:
                raise SystemExit(f"publisher of {log}: expected a delta, got none")


def judge(
    dataset: Dataset, first: int, scores: Sequence[Floats]
) -> tuple[dict[str, Cell], list[Cell], list[list[str]]]:
    """Compares what V engines scored, V of [N, T], with the labels of the exposures from `first` on.

    Returns what they reached with each task that has enough of both labels, AUC and GAUC inside a page: which page it
    is, is worth nothing there. Then the same of the first task by day, and by pair of `PAIRS` and task how much larger
    the AUC of one is.
    """
    served, tasks = slice(first, None), dataset.schema.tasks
    days = 1 + (dataset.times - dataset.times[0] // HOUR_MS * HOUR_MS) // DAY_MS
    labels, pages, enough = dataset.labels[served], dataset.domains[served], STABLE * len(np.unique(days))
    cells = evaluate(tasks, labels, pages, days[served], range(days.max() + 1), scores, enough)
    whole = {cell.task: cell for cell in cells if cell.domain == ALL and cell.stable}
    daily = [cell for cell in cells if cell.domain != ALL and cell.task == next(iter(whole))]
    columns = []
    for task, cell in whole.items():
        at = tasks.index(task)
        columns.append(_differences(cell.auc, labels[:, at] > 0.5, dataset.users[served], [s[:, at] for s in scores]))
    return whole, sorted(daily, key=lambda cell: int(cell.domain)), [list(row) for row in zip(*columns, strict=True)]


def _differences(
    aucs: Sequence[float], labels: npt.NDArray[np.bool_], users: npt.NDArray[np.int64], scores: Sequence[Floats]
) -> list[str]:
    """Returns for `PAIRS` of engines the first's AUC over the second's × 1000, ± half its 95 % interval.

    By Poisson's bootstrap over users: each counts so many times, with all their exposures.
    """
    draws = np.random.default_rng(0).poisson(1.0, (RESAMPLES, users.max() + 1)).astype(np.int8)
    weights = [draw[users] for draw in draws]
    drawn = np.array([weighted_aucs(labels, of_engine, weights) for of_engine in scores])
    said = []
    for a, b in ((NAMES.index(one), NAMES.index(other)) for one, other in PAIRS):
        half = 1.96 * np.std(drawn[a] - drawn[b], ddof=1)
        said.append(f"{1000 * (aucs[a] - aucs[b]):+.1f} ± {1000 * half:.1f}")
    return said


def tables(whole: Mapping[str, Cell], daily: Sequence[Cell], differences: Sequence[Sequence[str]]) -> list[str]:
    """Returns two tables of what `judge` found: AUC by day, then over all days of each task; and differences."""
    rows = [[f"day {cell.domain}", f"{cell.rows:,}", *(f"{value:.4f}" for value in cell.auc)] for cell in daily]
    for task, cell in whole.items():
        rows.append([f"**{task}, all days**", f"{cell.rows:,}", *(f"**{value:.4f}**" for value in cell.auc)])
        rows.append([f"{task}, within a page", "", *(f"{value:.4f}" for value in cell.gauc)])
    apart = [[f"{a} − {b}", *row] for (a, b), row in zip(PAIRS, differences, strict=True)]
    return [
        _markdown([f"AUC of {daily[0].task}", "exposures", *NAMES], rows),
        _markdown(["AUC × 1000, all days", *whole], apart),
    ]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(path: Path, title: str, daily: Sequence[Cell]) -> None:
    """Draws AUC by day to a PNG: what halves of the deltas are worth, and what bounded caches lose."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 3.9), layout="constrained")
    days = [int(cell.domain) for cell in daily]
    for axis, panel in zip(figure.subplots(1, 2, sharey=True), (NAMES[:4], NAMES[3:]), strict=True):
        for at in map(NAMES.index, panel):
            axis.plot(days, [cell.auc[at] for cell in daily], "o-", markersize=3.5, label=NAMES[at], color=f"C{at}")
        axis.set(xlabel="day of the log", ylabel="AUC")
        axis.legend(frameon=False, fontsize=8.5)
        axis.grid()
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, format="png", dpi=90, metadata={"Software": None})


def facts(plan: dict[str, Any], stats: dict[str, Any]) -> str:
    """Returns in words what the engines held and how fresh they were."""
    lines = []
    for name, (_, policy) in VARIANTS.items():
        cache, sync = stats[name]["cache"], stats[name]["sync"]
        total = cache["total"]
        said = f"{name}: {1 - total['defaults'] / total['keys']:.2%} of the ids asked for had a row"
        if policy is not None:
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

    os.environ["OMP_NUM_THREADS"] = "1"  # of both processes
    import torch

    torch.set_num_threads(1)
    began = time.perf_counter()
    dataset, trainer, passes = read_log(options)
    with tempfile.TemporaryDirectory(prefix="pepnet-online-") as name:
        folder = Path(name)
        plan, traffic = prepare(dataset, trainer, passes, options.share, folder)
        publishers = Publishers(folder, Gset(**plan["gset"]), passes[0][2] / 1000)
        context = multiprocessing.get_context("spawn")  # a process without torch
        answers, theirs = context.Pipe(duplex=False)
        process = context.Process(target=serve, args=(folder, plan, traffic, theirs), daemon=True)
        process.start()
        theirs.close()  # so that the end of the process is the end of its answers
        try:
            for number, (begin, end, ends) in enumerate(track(passes[1:], "passes", transient=True), 1):
                learnt = trainer.learn(np.arange(begin, end), ends)  # beside the serving process
                answers.recv()  # the pass was scored
                if number < len(passes) - 1:
                    publishers.publish(learnt, trainer.rows, ends / 1000)
            scores, stats = answers.recv()
        finally:
            process.kill()
    whole, daily, differences = judge(dataset, passes[0][1], scores)
    took = f"{time.perf_counter() - began:.0f} s in all."
    text = "\n\n".join([*tables(whole, daily, differences), facts(plan, stats), took])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "online.md").write_text(text + "\n", encoding="utf-8")
    title = f"AUC of {daily[0].task}, scored before it was learnt: passes of {options.every:g} h"
    plot(options.out / "online.png", title, daily)
    print(text)


if __name__ == "__main__":
    main()
