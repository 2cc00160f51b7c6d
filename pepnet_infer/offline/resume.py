"""How a later run tells that an output file is finished, and finished for the same request."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pepnet_infer import __version__
from pepnet_infer.errors import PepnetError

if TYPE_CHECKING:
    from pepnet_infer.bundle import Bundle
    from pepnet_infer.offline.source import Source

#: Key of the output file's metadata that holds the request as JSON.
REQUEST_KEY = "pepnet_infer.request"


def model_identity(bundle: Bundle, backend: Mapping[str, Any]) -> dict[str, object]:
    """Returns what scores depend on beside the rows: weights, tables, schema, and what runs them."""
    files: dict[str, dict[str, object]] = bundle.manifest["files"]
    listed = [[name, entry["sha256"]] for name, entry in sorted(files.items()) if name != "parity.json"]
    return {
        "model_version": bundle.model_version,
        "schema_hash": bundle.schema.hash,
        "weights": hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
        "tool": __version__,
        **{name: backend.get(name) for name in ("backend", "version", "provider", "precision")},
        **{name: backend[name] for name in ("isa", "how") if name in backend},  # kernels differ in the last bits
    }


def metadata(
    model: Mapping[str, object], options: Mapping[str, object], source: Source
) -> dict[bytes | str, bytes | str]:
    """Returns the output file's key-value metadata. It has no time and no path: equal input gives equal bytes."""
    request = {"model": model, "options": options, "source": source.identity()}
    return {
        "model_version": str(model["model_version"]),
        "schema_hash": str(model["schema_hash"]),
        "pepnet_infer_version": str(model["tool"]),
        REQUEST_KEY: json.dumps(request, sort_keys=True, separators=(",", ":")),
    }


def up_to_date(target: Path, source: Source, wanted: Mapping[bytes | str, bytes | str]) -> bool:
    """Whether `target` holds the scores that the metadata `wanted` describes.

    It does when its own metadata has the same request (model, options, and the input's size, rows and footer) and it is
    not older than the input: values can change without a trace in size and footer, but not without touching the time.
    Raises PepnetError for a file in the way that is no scored parquet: it may be somebody's only copy.
    """
    if not os.path.lexists(target):
        return False
    try:
        found = (pq.read_schema(target).metadata or {}).get(REQUEST_KEY.encode())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise PepnetError(f"{target}: expected nothing or an earlier output there, got: {error}") from error
    if found is None:
        raise PepnetError(f"{target}: expected nothing or an earlier output there, got a file of another origin")
    same = found.decode() == wanted[REQUEST_KEY]
    return same and target.stat().st_mtime_ns >= source.stamp.st_mtime_ns
