"""`pepnet-infer publish`: deltas and bundles into a log, what is in it, and what may go."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import structs

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.cli.output import AsJson, as_path, emit, progress
from pepnet_infer.errors import UpdateError
from pepnet_infer.sync.logs.open import open_transport
from pepnet_infer.sync.logs.transport import Transport


def publish(
    log: Annotated[str, typer.Argument(metavar="LOG", help="A folder, or redis://….")],
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=as_path,
            metavar="[OLD] [NEW]",
            help="Bundles: publish what NEW has and OLD has not; with --full, NEW alone.",
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Publish the bundle NEW itself, whole.")] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="With the graph of new weights too, for engines on ONNX Runtime.")
    ] = False,
    trim: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="KEEP",
            help="Then remove entries before the newest bundle that no follower needs, but for the last KEEP.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish what differs between two bundles, or a bundle whole, to engines that follow LOG.

    What is published where no log is begins one. Without bundles: say what is in LOG and who follows it.
    """
    given = bundles or []
    if len(given) > 2 or (full and len(given) != 1) or (not full and len(given) == 1):
        raise typer.BadParameter("expected OLD and NEW, or one bundle with --full, or none")
    transport = open_transport(log)
    result: dict[str, Any] = {"log": log, "begun": bool(given) and not _is_there(transport)}
    if full:
        bundle = Bundle.open(given[0])
        ends = transport.last_version()
        if ends is not None and ends > bundle.model_version:
            got = f"{bundle.model_version}: no follower would take it"
            raise UpdateError(
                "version", f"{given[0]}: expected a bundle of version {ends}, the log's, or above, got {got}"
            )
        with progress.status("append the bundle"):
            position = transport.append_bundle(bundle.path)
        result["bundle"] = {"position": position, "model_version": bundle.model_version}
    elif given:
        result["delta"] = _delta(transport, given[0], given[1], onnx)
    if trim is not None:
        result["trimmed"] = transport.trim(trim)
    if not given:
        transport.identity()  # a log that is not there is no log without entries
    result |= _status(transport)
    emit(result, as_json, _lines(result))


def _delta(transport: Transport, old: Path, new: Path, onnx: bool) -> dict[str, Any]:
    from pepnet_infer.export.publish.difference import write_difference

    before, after = Bundle.open(old), Bundle.open(new)
    ends = transport.last_version()
    if ends is not None and ends != before.model_version:
        wanted = f"version {before.model_version}, that of {old}, to be the last"
        raise UpdateError("base", f"log: expected {wanted}, got {ends}")
    with tempfile.TemporaryDirectory(prefix="pepnet-publish-") as folder, progress.status("compare the bundles"):
        path, found = write_difference(before, after, Path(folder) / "delta", onnx)
        position = transport.append(path)
    return {
        "position": position,
        "base_version": before.model_version,
        "model_version": after.model_version,
        "dense": found.dense is not None,
        "rows": {name: len(rows.keys) for name, rows in found.rows.items()},
        "removed": {name: int((~rows.found).sum()) for name, rows in found.rows.items()},
        "defaults": [name for name, rows in found.rows.items() if rows.default is not None],
    }


def _is_there(transport: Transport) -> bool:
    try:
        return bool(transport.identity())
    except UpdateError as error:
        if error.reason != "missing":
            raise
        return False


def _status(transport: Transport) -> dict[str, Any]:
    last, bundle, now = transport.last_delta(), transport.last_bundle(), time.time()
    return {
        "last": None if last is None else {"position": last[0], **structs.asdict(last[1])},
        "newest_bundle": None if bundle is None else {"position": bundle[0], "model_version": bundle[1]},
        "followers": {
            name: {**structs.asdict(said), "heard_s_ago": round(max(0.0, now - said.at), 1)}
            for name, said in transport.progress().items()
        },
    }


def _lines(result: dict[str, Any]) -> Iterator[str]:
    """Yields what a person is told of the log."""
    if result["begun"]:
        yield f"there was no log at {result['log']}: one was begun"
    if (delta := result.get("delta")) is not None:
        rows, removed = sum(delta["rows"].values()), sum(delta["removed"].values())
        changed = f"{rows - removed:,} rows, {removed:,} removed, {len(delta['defaults'])} default rows"
        dense = "new weights" if delta["dense"] else "the same weights"
        yield f"version {delta['base_version']} to {delta['model_version']}: {changed}, {dense}"
    if (bundle := result.get("bundle")) is not None:
        yield f"bundle of version {bundle['model_version']} appended"
    if "trimmed" in result:
        yield f"{result['trimmed']} entries removed"
    last, newest = result["last"], result["newest_bundle"]
    yield "last delta: none" if last is None else f"last delta: to version {last['model_version']}"
    yield "newest bundle: none" if newest is None else f"newest bundle: version {newest['model_version']}"
    for name, said in result["followers"].items():
        yield f"follower {name}: version {said['model_version']}, heard of {said['heard_s_ago']:.0f} s ago"
