"""What export measured of the native kernels, for people: lines and tables that several commands print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.table import Table

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.cli.output import as_text

_FIGURES = ("max_abs", "rms", "delta_auc")


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


def native_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yields one line a precision, as markup: a precision that is over its budget or not offered stands out."""
    if "why" in summary:
        yield as_text(summary["why"])
        return
    for precision, entry in summary.items():
        figures = ", ".join(f"{name} {entry[name]:.1e}" for name in _FIGURES if entry[name] is not None)
        line = as_text(f"native {precision}: {'offered' if entry['offered'] else 'not offered'}, {entry['why']}")
        good = entry["offered"] and "over its budget" not in entry["why"]
        yield (line if good else f"[yellow]{line}[/]") + (f" [dim]({figures})[/]" if figures else "")


def native_table(parity: Mapping[str, Any]) -> Table:
    """Returns `native` of a parity.json by precision and instruction set."""
    table = Table("precision", "on", "rows", "count", "max", "rms", "ΔAUC", box=box.SIMPLE)
    table.title, table.title_justify, table.title_style = "native kernels, measured at export", "left", "bold"
    for precision, entry in parity.get("native", {}).items():
        for isa, measured in entry["isas"].items() if precision != "why" else ():
            if "auc" not in measured:
                table.add_row(as_text(precision), as_text(isa), as_text(measured["why"]))
                continue
            lost = [delta for delta in measured["auc"]["delta"].values() if delta is not None]
            worst = f"{min(lost):.1e}" if lost else ""
            for rows in ("normal", "schema"):
                figures = measured[rows]
                numbers = (str(figures["rows"]), f"{figures['max_abs']:.1e}", f"{figures['rms']:.1e}")
                table.add_row(as_text(precision), as_text(isa), rows, *numbers, worst if rows == "normal" else "")
    return table
