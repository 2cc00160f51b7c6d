"""`pepnet-infer inspect`: what a bundle is, in tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table

from pepnet_infer.backends import native
from pepnet_infer.backends.create import plan
from pepnet_infer.backends.protocol import PRECISIONS, Settings
from pepnet_infer.bundle.bundle import DENSE, Bundle
from pepnet_infer.cli.native_figures import native_lines, native_summary, native_table
from pepnet_infer.cli.output import AsJson, as_path, as_text, emit
from pepnet_infer.errors import BackendError
from pepnet_infer.schema.cost import multiply_adds
from pepnet_infer.storage.mapped_file import MappedFile

_FLAGS = ("backbone", "gate_position", "gate_scope", "epnet_general", "use_epnet", "use_ppnet", "gamma", "gate_hidden")


def inspect(
    bundle: Annotated[Path, typer.Argument(parser=as_path, metavar="BUNDLE", help="The bundle's directory.")],
    as_json: AsJson = False,
) -> None:
    """Show model, fields, tables, parity and files of a bundle. Sizes are checked, hashes are not: see `verify`."""
    result = describe(Bundle.open(bundle, check="sizes"))
    emit(result, as_json, lambda console: _render(console, result))


def describe(bundle: Bundle) -> dict[str, Any]:
    """Returns what a bundle is, as plain JSON values. `multiply_adds` is null for a baseline."""
    schema, config = bundle.schema, bundle.config
    weights = sum(math.prod(info.shape) for info in MappedFile(bundle.path / DENSE).tensors.values())
    return {
        "bundle": str(bundle.path),
        "format_version": bundle.manifest["format_version"],
        "model_version": bundle.model_version,
        "schema_hash": schema.hash,
        "config": config.to_json(),
        "multiply_adds": multiply_adds(config, len(schema.tasks)) if config.model == "pepnet" else None,
        "weights": weights,
        "tasks": list(schema.tasks),
        "domains": list(schema.domains),
        "domain_column": schema.domain_column,
        "columns": list(schema.columns),
        "fields": [
            {
                "name": spec.name,
                "kind": spec.kind,
                "side": spec.side,
                "column": spec.column,
                "join": spec.join,
                "table": spec.table,
                "width": schema.width(spec),
                "inputs": list(spec.inputs),
            }
            for spec in schema.fields
        ],
        "tables": [
            {"name": name, "rows": info.rows, "dim": info.dim, "dtype": info.dtype, "bytes": info.bytes}
            for name, info in bundle.tables.items()
        ],
        "joins": [{"name": join.name, "column": join.column, "key": join.key} for join in schema.joins],
        "auto": {precision: _auto(bundle, precision) for precision in PRECISIONS["native"]},
        "native": native_summary(bundle),
        "parity": dict(bundle.parity),
        "files": bundle.manifest["files"],
        "tools": bundle.manifest.get("tools", {}),
        "meta": bundle.manifest.get("meta", {}),
    }


def _auto(bundle: Bundle, precision: str) -> dict[str, Any]:
    """Returns what backend "auto" takes on this machine: backend, device, isa and how (native), why; or problem."""
    settings = Settings(precision)
    try:
        planned = plan(bundle, "auto", settings)
        taken = {"backend": planned.backend, "device": planned.settings.device, "why": planned.settings.why}
        if planned.backend == native.NativeBackend.name:
            choice = native.choose_isa(settings)
            taken |= {"isa": choice["isa"], "how": choice["how"], "isa_why": choice["why"]}
    except BackendError as error:
        return {"problem": str(error)}
    return taken


def _render(console: Console, result: dict[str, Any]) -> None:
    config = result["config"]
    widths = config["inputs"]
    model = _table(f"{config['model']}, version {result['model_version']}", "", "")
    model.show_header = False
    if config["model"] == "pepnet":
        for flag in _FLAGS:
            model.add_row(flag, str(config[flag]))
    model.add_row("inputs", f"general {widths['general']}, domain {widths['domain']}, prior {widths['prior']}")
    model.add_row("layers", ", ".join(map(str, config["layers"])))
    if config["backbone"] == "mmoe":
        model.add_row("experts", str(config["experts"]))
        model.add_row("towers", ", ".join(map(str, config["towers"])) or "none")
    if config["extra"]:
        model.add_row("extra", as_text(", ".join(f"{k} {v}" for k, v in config["extra"].items())))
    if result["multiply_adds"] is not None:
        model.add_row("multiply-adds a row", f"{result['multiply_adds']:,}")
    model.add_row("dense weights", f"{result['weights']:,}")
    model.add_row("tasks", ", ".join(result["tasks"]))
    model.add_row("domains", as_text(f"{result['domain_column']}: {', '.join(map(str, result['domains']))}"))
    console.print(model)

    fields = _table("fields", "field", "kind", "side", "table, width", "inputs")
    for spec in result["fields"]:
        source = f"{spec['join']}.{spec['column']}" if spec["join"] else spec["column"]
        name = spec["name"] if source == spec["name"] else f"{spec['name']} ← {source}"
        width = f"{spec['table']} {spec['width']}" if spec["table"] else str(spec["width"])
        fields.add_row(as_text(name), spec["kind"], spec["side"], width, " ".join(spec["inputs"]))
    console.print(fields)

    tables = _table("tables", "table", "rows", "dim", "dtype", "MB")
    for table in result["tables"]:
        size = f"{table['bytes'] / 1e6:.2f}"
        tables.add_row(table["name"], f"{table['rows']:,}", str(table["dim"]), table["dtype"], size)
    console.print(tables)

    backends = _table("what backend auto takes on this machine", "precision", "backend", "on", "why, or why none")
    for precision, taken in result["auto"].items():
        if "problem" in taken:
            backends.add_row(precision, "none", "", as_text(taken["problem"]))
            continue
        on = f"{taken['isa']} ({taken['how']})" if "isa" in taken else taken["device"]
        why = taken["why"] + (f"; {taken['isa']}: {taken['isa_why']}" if "isa" in taken else "")
        backends.add_row(precision, taken["backend"], on, as_text(why))
    console.print(backends)

    parity = _table("differences from float64, measured at export", "stage", "rows", "count", "max", "rms")
    for stage, sets in result["parity"].get("fp32", {}).items():
        for name, figures in sets.items():
            numbers = (str(figures["rows"]), f"{figures['max_abs']:.1e}", f"{figures['rms']:.1e}")
            parity.add_row(as_text(stage), as_text(name), *numbers)
    console.print(parity)
    for line in native_lines(result["native"]):
        console.print(line, highlight=False)
    console.print(native_table(result["parity"]))

    files = _table("files", "file", "bytes", "sha256")
    for name, entry in result["files"].items():
        files.add_row(as_text(name), f"{entry['bytes']:,}", entry["sha256"][:12])
    console.print(files)
    tools = ", ".join(f"{k} {v}" for k, v in result["tools"].items())
    console.print(f"written with {as_text(tools)}", highlight=False)


def _table(title: str, *names: str) -> Table:
    columns = [Column(name, overflow="fold") for name in names]
    return Table(*columns, title=title, title_justify="left", title_style="bold", box=box.SIMPLE)
