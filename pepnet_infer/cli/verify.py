"""`pepnet-infer verify`: a bundle's bytes and scores, checked again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pepnet_infer.cli.output import AsJson, as_path, emit, expect_bundle, progress, say, show_table
from pepnet_infer.verify.verify import verify as verify_bundle


def verify(
    bundle: Annotated[Path, typer.Argument(parser=as_path, metavar="BUNDLE", help="The bundle's directory.")],
    as_json: AsJson = False,
) -> None:
    """Check a bundle's hashes, weights and tables, and measure again that it scores here as its weights say."""
    expect_bundle(bundle)
    with progress.status("check files, then scores"):
        result = verify_bundle(bundle)

    def render(console: Console) -> None:
        say(console, f"{result['bundle']}, version {result['model_version']}")
        say(console, f"{result['files']} files, {result['bytes'] / 1e6:.1f} MB: sizes, hashes and values are right")
        golden, fresh = result["golden"], result["fresh"]
        rows = [("golden", "float64 scores stored at export", golden["rows"], f"{golden['max_abs']:.1e}")]
        for name, figures in (fresh or {}).items():
            rows.append((name, "dense weights in float64", figures["rows"], f"{figures['max_abs']:.1e}"))
        show_table(console, "", ("rows", "compared with", "count", f"max (≤ {result['tolerance']:.0e})"), rows)
        show_table(console, "", ("kernels", "rows", "count", "max", "allowed", "why not"), _native(result["native"]))
        if fresh is None:
            say(console, "fresh rows not measured: needs pip install 'pepnet-infer[export]'")

    emit(result, as_json, render)


def _native(native: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    if "why" in native:
        yield "native", "", "", "", "", native["why"]
        return
    for precision, isas in native.items():
        if "why" in isas:
            yield precision, "", "", "", "", isas["why"]
            continue
        for isa, entry in isas.items():
            if "why" in entry:
                yield f"{precision} {isa}", "", "", "", "", entry["why"]
                continue
            for rows, figures in {"golden": entry["golden"], **(entry["fresh"] or {})}.items():
                most = entry["allowed"]["golden" if rows == "golden" else "fresh"]
                allowed = "any" if most is None else f"{most:.1e}"
                yield f"{precision} {isa}", rows, str(figures["rows"]), f"{figures['max_abs']:.1e}", allowed
