"""`pepnet-infer inspect`: what a bundle is, in tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import starmap
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import structs
from rich.console import Console

from pepnet_infer.backends import native
from pepnet_infer.backends.create import plan
from pepnet_infer.backends.protocol import PRECISIONS, Settings
from pepnet_infer.bundle.bundle import DENSE, Bundle
from pepnet_infer.cli.export import native_summary, show_native
from pepnet_infer.cli.network_svg import network_svg
from pepnet_infer.cli.output import AsJson, as_path, emit, expect_bundle, say, show_table
from pepnet_infer.errors import BackendError, PepnetError
from pepnet_infer.network.cost import costs, multiply_adds
from pepnet_infer.storage.atomic import write_file
from pepnet_infer.storage.tensorfile import MappedFile

_FLAGS = ("backbone", "gate_position", "gate_scope", "epnet_general", "use_epnet", "use_ppnet", "gamma", "gate_hidden")


def inspect(
    bundle: Annotated[Path, typer.Argument(parser=as_path, metavar="BUNDLE", help="The bundle's directory.")],
    svg: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the network's operations to this file too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show model, fields, tables, parity and files of a bundle. Sizes are checked, hashes are not: see `verify`."""
    expect_bundle(bundle)
    opened = Bundle.open(bundle, check="sizes")
    result = describe(opened)
    if svg is not None:
        title = f"{result['config']['model']}, {result['multiply_adds']:,} multiply-adds a row"
        heads = {head.of: head.kind for head in opened.network.heads}
        drawing = network_svg(title, result["network"], structs.asdict(opened.network.inputs), heads)
        try:
            write_file(svg, drawing.encode())
        except OSError as error:
            raise PepnetError(f"{svg}: cannot write: {error}") from error
    emit(result, as_json, lambda console: _render(console, result))


def describe(bundle: Bundle) -> dict[str, Any]:
    """Returns what a bundle is, as plain JSON values."""
    schema, config = bundle.schema, bundle.config
    weights = sum(math.prod(info.shape) for info in MappedFile(bundle.path / DENSE).tensors.values())
    return {
        "bundle": str(bundle.path),
        "format_version": bundle.manifest["format_version"],
        "model_version": bundle.model_version,
        "schema_hash": schema.hash,
        "config": config.to_json(),
        "multiply_adds": multiply_adds(bundle.network),
        "network": [cost._asdict() for cost in costs(bundle.network)],
        "weights": weights,
        "tasks": list(schema.tasks),
        "domains": list(schema.domains),
        "domain_column": schema.domain_column,
        "columns": list(schema.columns),
        "fields": [
            {
                **{name: getattr(spec, name) for name in ("name", "kind", "side", "column", "join", "table")},
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
        way, chosen = plan(bundle, "auto", settings)[0]
        taken = {"backend": way.backend, "device": chosen.device, "why": chosen.why}
        if way.backend == native.NativeBackend.name:
            choice = native.choose_isa(settings)
            taken |= {"isa": choice["isa"], "how": choice["how"], "isa_why": choice["why"]}
    except BackendError as error:
        return {"problem": str(error)}
    return taken


def _render(console: Console, result: dict[str, Any]) -> None:
    config, widths = result["config"], result["config"]["inputs"]
    model = [(flag, config[flag]) for flag in _FLAGS] if config["model"] == "pepnet" else []
    model.append(("inputs", f"general {widths['general']}, domain {widths['domain']}, prior {widths['prior']}"))
    model.append(("layers", ", ".join(map(str, config["layers"]))))
    if config["backbone"] == "mmoe":
        model.append(("experts", config["experts"]))
        model.append(("towers", ", ".join(map(str, config["towers"])) or "none"))
    if config["extra"]:
        model.append(("extra", ", ".join(f"{k} {v}" for k, v in config["extra"].items())))
    model.append(("multiply-adds a row", f"{result['multiply_adds']:,}"))
    model.append(("dense weights", f"{result['weights']:,}"))
    model.append(("tasks", ", ".join(result["tasks"])))
    model.append(("domains", f"{result['domain_column']}: {', '.join(map(str, result['domains']))}"))
    show_table(console, f"{config['model']}, version {result['model_version']}", (), model)

    operations = [
        (one["name"], one["op"], ", ".join(one["reads"]), "×".join(map(str, one["shape"])), *_counts(one))
        for one in result["network"]
    ]
    what = ("operation", "kind", "reads", "groups×width", "multiply-adds", "kB of weights")
    show_table(console, "network", what, operations)

    fields = []
    for spec in result["fields"]:
        source = f"{spec['join']}.{spec['column']}" if spec["join"] else spec["column"]
        name = spec["name"] if source == spec["name"] else f"{spec['name']} ← {source}"
        fields.append((name, spec["kind"], spec["side"], spec["table"] or "", spec["width"], " ".join(spec["inputs"])))
    show_table(console, "fields", ("field", "kind", "side", "table", "width", "inputs"), fields)

    tables = [(t["name"], f"{t['rows']:,}", t["dim"], t["dtype"], f"{t['bytes'] / 1e6:.2f}") for t in result["tables"]]
    show_table(console, "tables", ("table", "rows", "dim", "dtype", "MB"), tables)

    head = ("precision", "backend", "on", "why, or why none")
    show_table(console, "what backend auto takes on this machine", head, starmap(_taken, result["auto"].items()))

    parity = [
        (stage, name, figures["rows"], f"{figures['max_abs']:.1e}", f"{figures['rms']:.1e}")
        for stage, sets in result["parity"].get("fp32", {}).items()
        for name, figures in sets.items()
    ]
    figures = ("stage", "rows", "count", "max", "rms")
    show_table(console, "differences from float64, measured at export", figures, parity)
    show_native(console, result["native"])
    columns = ("kernels", "rows", "count", "max", "rms", "ΔAUC", "why not")
    show_table(console, "native kernels, measured at export", columns, _kernels(result["parity"].get("native", {})))

    files = [(name, f"{entry['bytes']:,}", entry["sha256"][:12]) for name, entry in result["files"].items()]
    show_table(console, "files", ("file", "bytes", "sha256"), files)
    say(console, f"written with {', '.join(f'{k} {v}' for k, v in result['tools'].items())}")


def _counts(one: dict[str, Any]) -> tuple[str, str]:
    """Returns multiply-adds and weights of an operation; nothing where there are none."""
    done, held = one["multiply_adds"], one["weight_bytes"]
    return f"{done:,}" if done else "", f"{held / 1e3:,.1f}" if held else ""


def _taken(precision: str, taken: dict[str, Any]) -> tuple[str, ...]:
    if "problem" in taken:
        return precision, "none", "", taken["problem"]
    on = f"{taken['isa']} ({taken['how']})" if "isa" in taken else taken["device"]
    why = taken["why"] + (f"; {taken['isa']}: {taken['isa_why']}" if "isa" in taken else "")
    return precision, taken["backend"], on, why


def _kernels(native: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yields the figures of a parity.json by precision and instruction set."""
    for precision, entry in native.items() if "why" not in native else ():
        for isa, measured in entry["isas"].items():
            if "auc" not in measured:
                yield f"{precision} {isa}", "", "", "", "", "", measured["why"]
                continue
            lost = [delta for delta in measured["auc"]["delta"].values() if delta is not None]
            for name in ("normal", "schema"):
                figures, worst = measured[name], f"{min(lost):.1e}" if lost and name == "normal" else ""
                numbers = (str(figures["rows"]), f"{figures['max_abs']:.1e}", f"{figures['rms']:.1e}")
                yield f"{precision} {isa}", name, *numbers, worst
