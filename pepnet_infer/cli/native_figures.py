"""What export measured of the native kernels, for people: lines and tables that several commands print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.cli.output import as_text, say, show_table

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


def show_native(console: Console, summary: Mapping[str, Any]) -> None:
    """Prints one line a precision: one that is over its budget or not offered stands out."""
    if "why" in summary:
        say(console, summary["why"])
        return
    for precision, entry in summary.items():
        figures = ", ".join(f"{name} {entry[name]:.1e}" for name in _FIGURES if entry[name] is not None)
        line = as_text(f"native {precision}: {'offered' if entry['offered'] else 'not offered'}, {entry['why']}")
        good = entry["offered"] and "over its budget" not in entry["why"]
        line = (line if good else f"[yellow]{line}[/]") + (f" [dim]({figures})[/]" if figures else "")
        console.print(line, highlight=False, soft_wrap=True)


def show_parity(console: Console, parity: Mapping[str, Any]) -> None:
    """Prints `native` of a parity.json by precision and instruction set."""
    rows: list[tuple[str, ...]] = []
    for precision, entry in parity.get("native", {}).items():
        for isa, measured in entry["isas"].items() if precision != "why" else ():
            if "auc" not in measured:
                rows.append((f"{precision} {isa}", "", "", "", "", "", measured["why"]))
                continue
            lost = [delta for delta in measured["auc"]["delta"].values() if delta is not None]
            worst = f"{min(lost):.1e}" if lost else ""
            for name in ("normal", "schema"):
                figures = measured[name]
                numbers = (str(figures["rows"]), f"{figures['max_abs']:.1e}", f"{figures['rms']:.1e}")
                rows.append((f"{precision} {isa}", name, *numbers, worst if name == "normal" else ""))
    head = ("kernels", "rows", "count", "max", "rms", "ΔAUC", "why not")
    show_table(console, "native kernels, measured at export", head, rows)
