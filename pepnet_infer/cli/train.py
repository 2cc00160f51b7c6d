"""`pepnet-infer train`: exposures → a trained checkpoint and what it is worth."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import structs
from rich.console import Console

from pepnet_infer.cli.output import AsJson, as_path, emit, progress, say, show_table
from pepnet_infer.cli.progress import ProgressOption, Watch
from pepnet_infer.schema.network_config import MODELS

if TYPE_CHECKING:
    from pepnet_infer.export.run_config import RunConfig
    from pepnet_infer.export.train.report import Table


def train(
    data: Annotated[str, typer.Argument(metavar="kuairand:DIR|synthetic[:ROWS]", help="What to train on.")],
    out: Annotated[Path, typer.Option("--out", parser=as_path, metavar="CKPT", help="The directory to write.")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", parser=as_path, metavar="F.yaml", help="Features, model and training; built in for synthetic."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help=f"Instead of the config's: {', '.join(MODELS)}.")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="PEPNet, without EPNet, without PPNet, and all baselines; PEPNet is kept.")
    ] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds to report over; the first is kept.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The first seed.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most this many.")] = None,
    test_rows: Annotated[
        Path | None,
        typer.Option(parser=as_path, metavar="F.parquet", help="Write the raw rows of the test days there, to score."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the checkpoint that is there.")] = False,
    show: ProgressOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a reference model. Reports AUC and GAUC per task and domain, on days that training never sees."""
    if model is not None and model not in MODELS:
        raise typer.BadParameter(f"--model: expected one of {', '.join(MODELS)}, got {model!r}")
    if compare and model is not None:
        raise typer.BadParameter("--compare trains every model: leave --model out")
    if config is None and not data.startswith("synthetic"):
        raise typer.BadParameter("--config: expected a yaml file (examples/kuairand.yaml), got none")
    # Waiting threads sleep: batches are short, and threads that spin take three times as long on a busy machine.
    # OpenMP reads this when torch loads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # torch is imported here and not above, so that the other commands start without it
    import torch

    from pepnet_infer.bundle.checkpoint import DOCUMENT
    from pepnet_infer.export.data.dataset import build_dataset, write_test_rows
    from pepnet_infer.export.data.source import open_source
    from pepnet_infer.export.data.synthetic import synthetic_run
    from pepnet_infer.export.run_config import RunConfig
    from pepnet_infer.export.train import report
    from pepnet_infer.export.train.compare import train_all, variants
    from pepnet_infer.export.train.train import to_checkpoint
    from pepnet_infer.process.cpu import available_threads
    from pepnet_infer.storage.atomic import refuse_occupied

    refuse_occupied(out, DOCUMENT, overwrite)  # before the minutes, not after
    run = RunConfig.read(config) if config else synthetic_run()
    run = _changed(run, model, seeds, seed, epochs)
    source = open_source(data)
    torch.set_num_threads(available_threads())  # torch knows of cpusets, not of quotas
    with Watch(show) as watch:
        watch.step("read and encode the data")
        dataset = build_dataset(source, run.schema, run.train)
        outcomes, kept = train_all(
            dataset, variants(run.model, dataset, compare), run.train, lambda name, seed: _shown(watch, name, seed)
        )
    result = report.report_json(data, dataset, run.train, outcomes)
    meta = {"data": source.name, "seed": run.train.seed, "epochs": kept.epochs}
    files = {"report.json": json.dumps(result, indent=1, allow_nan=False).encode(), "report.png": report.plot(outcomes)}
    to_checkpoint(dataset, kept, run.train.gset, meta).save(out, overwrite=overwrite, reports=files)
    if test_rows is not None:
        write_test_rows(dataset, test_rows)
    notes = report.notes(dataset, run.train, outcomes)
    emit(result, as_json, lambda console: _render(console, report.tables(outcomes), notes))
    say(progress, f"checkpoint {out}, with report.json and report.png")


def _changed(run: RunConfig, model: str | None, seeds: int | None, seed: int | None, epochs: int | None) -> RunConfig:
    """Returns `run` with what the command line says otherwise."""
    from pepnet_infer.export.run_config import readable

    given = {name: value for name, value in (("seeds", seeds), ("seed", seed), ("epochs", epochs)) if value is not None}
    flags = readable({**run.model, "model": model}) if model is not None else run.model
    return dataclasses.replace(run, model=flags, train=structs.replace(run.train, **given))


def _shown(watch: Watch, name: str, seed: int) -> Callable[[str, int, int, int, float], None]:
    """Returns what shows one training: a line an epoch, or a bar."""
    last = ""

    def told(phase: str, epoch: int, done: int, batches: int, loss: float) -> None:
        nonlocal last
        what = f"{name}, seed {seed}: {phase}, epoch {epoch + 1}"
        if what != last:
            watch.step(what)
            last = what
        note = f"loss {loss:.4f}"
        watch.at(done, batches, note, f"{what}, batch {done} of {batches}, {note}")

    return told


def _render(console: Console, tables: Iterable[Table], notes: Iterable[str]) -> None:
    for title, head, rows in tables:
        show_table(console, title, head, rows)
    for note in notes:
        say(console, note)
