"""`pepnet-infer export`: checkpoint or preset → bundle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from pepnet_infer.bundle.accuracy import BUDGETS, Budget
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.cli.output import AsJson, as_path, emit, say
from pepnet_infer.cli.progress import ProgressOption, Watch
from pepnet_infer.quoting import printable

#: What export measured of the native kernels in a precision.
_FIGURES = ("max_abs", "rms", "delta_auc")


def _limit(given: str | float) -> float:
    """Parses the most that int8 may cost; 0 for off."""
    text = str(given).strip().lower()
    try:
        most = 0.0 if text == "off" else float(text)
    except ValueError:
        most = math.nan
    if not 0.0 <= most < math.inf:
        raise typer.BadParameter(f"expected a number of 0 or more, or off, got {given!r}")
    return most


def export(
    source: Annotated[str, typer.Argument(metavar="CKPT|preset:NAME", help="A checkpoint of `train`, or a preset.")],
    out: Annotated[Path, typer.Option("--out", parser=as_path, metavar="BUNDLE", help="The directory to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Draws the rows parity is measured on, and a preset's weights.")] = 0,
    table_rows: Annotated[
        int | None, typer.Option(min=0, help="Preset only: rows per table, 10000 unless said otherwise.")
    ] = None,
    table_dtype: Annotated[str, typer.Option(help="What rows are stored as: float32, float16, bfloat16.")] = "float32",
    model_version: Annotated[
        int | None, typer.Option(min=0, help="Must grow from bundle to bundle; the Unix time unless said otherwise.")
    ] = None,
    int8_max_abs: Annotated[
        float,
        typer.Option(parser=_limit, metavar="MAX|off", help="Offer int8 when no score is off by more; off: never."),
    ] = BUDGETS["int8"]["max_abs"],
    int8_delta_auc: Annotated[
        float,
        typer.Option(parser=_limit, metavar="MAX|off", help="Offer int8 when no task's AUC loses more; off: never."),
    ] = BUDGETS["int8"]["delta_auc"],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")] = False,
    show: ProgressOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Write a verified bundle. Nothing is written when a score differs from float64 by more than 1e-5 (native 5e-6)."""
    # torch is imported here and not above, so that the other commands start without it
    from pepnet_infer.bundle.checkpoint import TABLE_DTYPES, Checkpoint
    from pepnet_infer.export.bundle.presets import PREFIX, TABLE_ROWS, is_preset, make_preset, preset_names
    from pepnet_infer.export.bundle.write_bundle import write_bundle

    if table_dtype not in TABLE_DTYPES:
        raise typer.BadParameter(f"expected one of {', '.join(TABLE_DTYPES)}, got {table_dtype!r}")
    preset = source.removeprefix(PREFIX) if source.startswith(PREFIX) else None
    if preset is not None and not is_preset(preset):
        raise typer.BadParameter(f"expected a preset of {', '.join(preset_names())}, got {preset!r}")
    if preset is None and table_rows is not None:
        raise typer.BadParameter("--table-rows is for presets: a checkpoint has its own tables")
    budget: Budget = {"max_abs": int8_max_abs, "delta_auc": int8_delta_auc}
    with Watch(show) as watch:
        watch.step("read the checkpoint" if preset is None else f"make the preset {preset}")
        if preset is None:
            checkpoint = Checkpoint.load(source)
        else:
            checkpoint = make_preset(preset, seed, TABLE_ROWS if table_rows is None else table_rows)
        bundle = write_bundle(
            checkpoint,
            out,
            seed=seed,
            table_dtype=table_dtype,
            model_version=model_version,
            overwrite=overwrite,
            int8_budget=budget if all(budget.values()) else None,
            on_step=watch.step,
        )
        watch.step("bundle written")
    result = summary(bundle)
    emit(result, as_json, lambda console: render(console, result))


def summary(bundle: Bundle) -> dict[str, Any]:
    """Returns what a caller of `export` wants to know of the bundle, as plain JSON values."""
    return {
        "bundle": str(bundle.path),
        "model": bundle.config.model,
        "model_version": bundle.model_version,
        "tasks": list(bundle.tasks),
        "bytes": sum(entry["bytes"] for entry in bundle.manifest["files"].values()),
        "max_abs_difference": {
            stage: max(figures["max_abs"] for figures in sets.values()) for stage, sets in bundle.parity["fp32"].items()
        },
        "tolerance": bundle.parity["tolerance"],
        "native": native_summary(bundle),
    }


def render(console: Console, result: dict[str, Any]) -> None:
    """Prints what `summary` returns."""
    worst = ", ".join(f"{stage} {value:.1e}" for stage, value in result["max_abs_difference"].items())
    say(console, f"{result['bundle']}, version {result['model_version']}, {result['bytes'] / 1e6:.1f} MB")
    say(console, f"largest difference from float64: {worst} (allowed {result['tolerance']:.0e})")
    show_native(console, result["native"])


def native_summary(bundle: Bundle) -> dict[str, Any]:
    """Returns precision → offered, why, max_abs, rms, delta_auc; only why where export measured nothing."""
    precisions = bundle.native
    if not precisions:
        why = bundle.parity.get("native", {}).get("why", "export did not measure it")
        return {"why": f"native: {why}"}
    return {
        name: {"offered": entry["offered"], "why": entry["why"], **{key: entry.get(key) for key in _FIGURES}}
        for name, entry in precisions.items()
    }


def show_native(console: Console, summary: Mapping[str, Any]) -> None:
    """Prints one line a precision: one that is over its budget or not offered stands out."""
    if "why" in summary:
        say(console, summary["why"])
        return
    for precision, entry in summary.items():
        figures = ", ".join(f"{name} {entry[name]:.1e}" for name in _FIGURES if entry[name] is not None)
        said = f"native {precision}: {'offered' if entry['offered'] else 'not offered'}, {entry['why']}"
        good = entry["offered"] and "over its budget" not in entry["why"]
        line = Text.assemble((printable(said), "" if good else "yellow"), (f" ({figures})" if figures else "", "dim"))
        console.print(line, soft_wrap=True)
