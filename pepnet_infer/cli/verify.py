"""`pepnet-infer verify`: a bundle's bytes and scores, checked again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from pepnet_infer.cli.output import AsJson, as_path, as_text, emit, progress
from pepnet_infer.verify.verify import verify as verify_bundle


def verify(
    bundle: Annotated[Path, typer.Argument(parser=as_path, metavar="BUNDLE", help="The bundle's directory.")],
    as_json: AsJson = False,
) -> None:
    """Check a bundle's hashes, weights and tables, and measure again that it scores here as its weights say."""
    with progress.status("check files, then scores"):
        result = verify_bundle(bundle)

    def render(console: Console) -> None:
        console.print(f"[bold]{as_text(result['bundle'])}[/]  version {result['model_version']}")
        console.print(f"{result['files']} files, {result['bytes'] / 1e6:.1f} MB: sizes, hashes and values are right")
        table = Table("rows", "compared with", "count", f"max (≤ {result['tolerance']:.0e})", box=box.SIMPLE)
        golden, fresh = result["golden"], result["fresh"]
        table.add_row("golden", "float64 scores stored at export", str(golden["rows"]), f"{golden['max_abs']:.1e}")
        for name, figures in (fresh or {}).items():
            table.add_row(name, "dense weights in float64", str(figures["rows"]), f"{figures['max_abs']:.1e}")
        console.print(table)
        console.print(_native(result["native"]))
        if fresh is None:
            console.print("fresh rows not measured: needs pip install 'pepnet-infer[export]'", markup=False)

    emit(result, as_json, render)


def _native(native: dict[str, Any]) -> Table:
    table = Table("native", "on", "rows", "count", "max", "allowed", box=box.SIMPLE)
    if "why" in native:
        table.add_row("none", "", as_text(native["why"]))
        return table
    for precision, isas in native.items():
        if "why" in isas:
            table.add_row(precision, "", as_text(isas["why"]))
            continue
        for isa, entry in isas.items():
            if "why" in entry:
                table.add_row(precision, isa, as_text(entry["why"]))
                continue
            for rows, figures in {"golden": entry["golden"], **(entry["fresh"] or {})}.items():
                most = entry["allowed"]["golden" if rows == "golden" else "fresh"]
                allowed = "any" if most is None else f"{most:.1e}"
                table.add_row(precision, isa, rows, str(figures["rows"]), f"{figures['max_abs']:.1e}", allowed)
    return table
