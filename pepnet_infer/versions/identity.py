"""What tells the scores of one engine from those of another, in any process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from pepnet_infer.rows.protocols import identity_of
from pepnet_infer.rows.version_rows import cache_of
from pepnet_infer.version import __version__

if TYPE_CHECKING:
    from pepnet_infer.versions.model_version import ModelVersion


def identity(served: ModelVersion) -> dict[str, Any]:
    """Returns what scores depend on beside the batch, as plain JSON values.

    model_version, schema_hash; weights (a hash over the config and the bundle's files); domain (a hash over the inputs
    that bf16 or int8 was measured on: other rows are scored in fp32); tool (our version); backend, version, provider
    (the kind of device), precision, isa and how (kernels differ in the last bits); cached_rows, where the cache rounds
    rows: all of its options, for what it keeps decides which rows are rounded; rows: where they come from and what was
    applied to them since, None where that is not known, and then no two scores can be said to be the same.
    """
    bundle, backend = served.bundle, served.backend.describe()
    found: dict[str, Any] = {
        "model_version": bundle.model_version,
        "schema_hash": bundle.schema.hash,
        "weights": bundle.digests["weights"],
        "tool": __version__,
        **{name: backend.get(name) for name in ("backend", "version", "precision")},
        # the key in the files that were scored so far
        "provider": "tensorrt" if backend.get("tensorrt") else backend["device"].partition(":")[0],
        **{name: backend[name] for name in ("isa", "how") if name in backend},
        "rows": _rows(served),
    }
    if "domain" in backend:
        found["domain"] = bundle.digests[backend["precision"]]
    rows = cache_of(served.rows)
    if rows is not None and rows.config.dtype != "float32":
        found["cached_rows"] = msgspec.to_builtins(rows.config)  # with float32 scores are those without a cache
    return found


def _rows(served: ModelVersion) -> str | None:
    store = identity_of(served.rows)
    if store is None or served.applied is None:
        return None
    return f"{store} {served.applied}" if served.applied else store
