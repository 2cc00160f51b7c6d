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
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import structs
from online_serve import FIRST_VERSION, VARIANTS, serve
from rich.progress import Progress

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.export.publish.publisher import Publisher
from pepnet_infer.export.train.metrics import auc
from pepnet_infer.rows.gset import Gset
from pepnet_infer.schema.ids import Keys
from pepnet_infer.sync import DirectoryLog
from pepnet_infer.sync.delta import open_delta, write_delta

if TYPE_CHECKING:
    from pepnet_infer.export.data.dataset import Dataset
    from pepnet_infer.export.train.online import Floats, Learnt, OnlineTrainer

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
STEP = 256  # exposures in a step of training
RESAMPLES = 200
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
def serving(*begins_with: Any) -> Iterator[Callable[[], Any]]:
    """Runs the serving process. Yields what waits for its next word; EOFError where it has ended."""
    context = multiprocessing.get_context("spawn")  # a process without torch
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(*begins_with, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv
    finally:
        process.kill()


@dataclass(frozen=True)
class Scored:
    """N exposures after the first day and what V engines scored for one task."""

    labels: npt.NDArray[np.bool_]  # [N]
    scores: npt.NDArray[np.float32]  # [V, N]
    days: npt.NDArray[np.int64]  # [N], 1 for the second
    users: npt.NDArray[np.int64]  # [N]
    pages: npt.NDArray[np.int64]  # [N]

    def by(self, groups: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Returns AUC [G, V] within each group, and how many exposures each has [G]."""
        values, counts = np.unique(groups, return_counts=True)
        parts = [groups == value for value in values]
        return np.array([[auc(self.labels[part], s[part]) for s in self.scores] for part in parts]), counts

    def in_all(self) -> npt.NDArray[np.float64]:
        """Returns AUC [V] over all days."""
        return self.by(np.zeros_like(self.days))[0][0]

    def within_pages(self) -> npt.NDArray[np.float64]:
        """Returns AUC [V] inside a page, mean over pages by exposures: which page it is, is worth nothing here."""
        values, counts = self.by(self.pages)
        known = np.isfinite(values).all(1)
        return np.asarray(np.average(values[known], axis=0, weights=counts[known]))

    def differences(self, pairs: Sequence[tuple[int, int]], seed: int = 0) -> list[str]:
        """Returns for pairs of engines the first's AUC over the second's × 1000, ± half its 95 % interval.

        By Poisson's bootstrap over users: each counts so many times, with all their exposures.
        """
        places = [np.unique(scores, return_inverse=True)[1] for scores in self.scores]
        rng, drawn = np.random.default_rng(seed), np.empty((RESAMPLES, len(places)))
        for draw in drawn:
            weights = rng.poisson(1.0, self.users.max() + 1).astype(np.float64)[self.users]
            draw[:] = [_weighted_auc(place, self.labels, weights) for place in places]
        whole = 1000 * self.in_all()
        spread = [1960 * np.std(drawn[:, a] - drawn[:, b], ddof=1) for a, b in pairs]
        return [f"{whole[a] - whole[b]:+.1f} ± {half:.1f}" for (a, b), half in zip(pairs, spread, strict=True)]


def _weighted_auc(place: npt.NDArray[Any], labels: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64]) -> float:
    positive, negative = np.bincount(place, weights * labels), np.bincount(place, weights * ~labels)
    below = np.cumsum(negative) - negative
    return float((positive * (below + 0.5 * negative)).sum() / (positive.sum() * negative.sum()))


def by_task(dataset: Dataset, passes: list[Pass], scores: Any) -> dict[str, Scored]:
    """Returns labels and scores [V, N, T] by task, those with enough of both kinds of labels."""
    days = (dataset.times - dataset.times[0] // HOUR_MS * HOUR_MS) // DAY_MS
    served = slice(passes[0][1], None)
    tasks = {}
    for place, task in enumerate(dataset.schema.tasks):
        labels = dataset.labels[served, place] > 0.5
        if min(labels.sum(), (~labels).sum()) >= STABLE * len(np.unique(days)):
            columns = days[served], dataset.users[served], dataset.domains[served]
            tasks[task] = Scored(labels, scores[:, :, place], *columns)
    return tasks


def tables(names: Sequence[str], tasks: Mapping[str, Scored], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Returns two tables: AUC by day of the first task, then over all days of each; and differences of pairs."""
    task, first = next(iter(tasks.items()))
    values, counts = first.by(first.days)
    days = np.unique(first.days) + 1
    rows = [[f"day {d}", f"{n:,}", *(f"{v:.4f}" for v in day)] for d, n, day in zip(days, counts, values, strict=True)]
    for name, served in tasks.items():
        rows.append([f"**{name}, all days**", f"{len(served.days):,}", *(f"**{v:.4f}**" for v in served.in_all())])
        rows.append([f"{name}, within a page", "", *(f"{value:.4f}" for value in served.within_pages())])
    places = [(names.index(a), names.index(b)) for a, b in pairs]
    columns = zip(*(served.differences(places) for served in tasks.values()), strict=True)
    apart = [[f"{a} − {b}", *cells] for (a, b), cells in zip(pairs, columns, strict=True)]
    heads = [f"AUC of {task}", "exposures", *names], ["AUC × 1000, all days", *tasks]
    return [_markdown(head, lines) for head, lines in zip(heads, (rows, apart), strict=True)]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(path: Path, title: str, names: Sequence[str], panels: Sequence[Sequence[str]], served: Scored) -> None:
    """Draws AUC by day to a PNG, one panel for each list of engines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 3.9), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    values, days = served.by(served.days)[0], np.unique(served.days) + 1
    for axis, panel in zip(axes, panels, strict=True):
        for at in map(names.index, panel):
            axis.plot(days, values[:, at], marker="o", markersize=3.5, label=names[at], color=f"C{at}")
        axis.set(xlabel="day of the log", ylabel="AUC")
        axis.legend(frameon=False, fontsize=8.5)
        axis.grid()
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, format="png", dpi=90, metadata={"Software": None})


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

    os.environ["OMP_NUM_THREADS"] = "1"  # of both processes
    import torch

    torch.set_num_threads(1)
    began = time.perf_counter()
    dataset, trainer, passes = read_log(options)
    with tempfile.TemporaryDirectory(prefix="pepnet-online-") as name:
        folder = Path(name)
        plan, traffic = prepare(dataset, trainer, passes, options.share, folder)
        logs = Logs(folder, Gset(**plan["gset"]), passes[0][2] / 1000)
        with serving(folder, plan, traffic) as answer, Progress(transient=True) as progress:
            for number, (begin, end, ends) in enumerate(progress.track(passes[1:], description="passes"), 1):
                learnt = trainer.learn(np.arange(begin, end), ends)  # beside the serving process
                answer()  # the pass was scored
                if number < len(passes) - 1:
                    logs.publish(learnt, trainer.rows, ends / 1000)
            scores, stats = answer()
    tasks, said = by_task(dataset, passes, scores), facts(plan, stats)
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
