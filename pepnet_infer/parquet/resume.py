"""How a later run tells that an output file is finished, and finished for the same request."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pepnet_infer.errors import PepnetError, readable
from pepnet_infer.parquet.summary import Counts
from pepnet_infer.parquet.tree import regular
from pepnet_infer.quoting import clip

#: Key of the output file's metadata that holds the request as JSON.
REQUEST_KEY = "pepnet_infer.request"
#: Key that is there where default rows were accepted in place of the store's: field → ids that got one, as JSON.
UNAVAILABLE_KEY = "pepnet_infer.unavailable"
#: Key that is there where rows have null scores: how many, and column → the first fault there, as JSON.
BAD_ROWS_KEY = "pepnet_infer.bad_rows"
#: Key of a hash of all that the output holds before its footer.
WRITTEN_KEY = "pepnet_infer.written"

_CHUNK = 1 << 20
_TAIL = struct.Struct("<i4s")  # of a parquet file: the footer's length and a name


@dataclass(frozen=True)
class Request:
    """All that an output depends on: who scores (see `identity`), options, values from folders' names, the input.

    `source` is the input but for a hash of its content, which `metadata` and `finished` add.
    """

    scorer: Mapping[str, Any]
    options: Mapping[str, object]
    folders: Mapping[str, object]
    source: Mapping[str, object]

    def schema_metadata(self) -> dict[bytes | str, bytes | str]:
        """Returns what the output says of its model, where readers find it in the schema."""
        names = {"model_version": "model_version", "schema_hash": "schema_hash", "pepnet_infer_version": "tool"}
        return {name: str(self.scorer[key]) for name, key in names.items()}

    def metadata(self, content: str, counts: Counts, written: str) -> dict[str, str]:
        """Returns what the output says of the request and, by the hash `written`, of itself.

        It has no time and no path: equal input gives equal bytes.
        """
        request = json.dumps(self._json(content), sort_keys=True, separators=(",", ":"))
        found = {REQUEST_KEY: request, WRITTEN_KEY: written}
        if counts.unavailable:
            found[UNAVAILABLE_KEY] = json.dumps(dict(sorted(counts.unavailable.items())))
        if self.options["on_bad_row"] == "null":
            found[BAD_ROWS_KEY] = json.dumps([counts.null_rows, counts.faults])
        return found

    def finished(self, target: Path, accept: bool, content: Callable[[], str]) -> Counts | None:
        """Returns what `target` tells of its rows where it holds the scores of this request, else None.

        It holds them when its own metadata has the same one, with the hash that `content` returns of the input, and no
        default rows in place of rows that the store did not deliver, unless the run would `accept` such; and when all
        before the footer is what was written there. Where the engine's rows cannot be known it never does. Raises
        PepnetError for a file in the way that is no scored parquet: it may be somebody's only copy.
        """
        found = check_replaceable(target)
        if found is None or self.scorer["rows"] is None or (UNAVAILABLE_KEY.encode() in found and not accept):
            return None
        try:
            said = json.loads(found[REQUEST_KEY.encode()])
            hashed = said["source"]["content"]
            unavailable = msgspec.json.decode(found.get(UNAVAILABLE_KEY.encode(), b"{}"), type=dict[str, int])
            rows = b"[0,{}]" if self.options["on_bad_row"] != "null" else found[BAD_ROWS_KEY.encode()]
            bad = msgspec.json.decode(rows, type=tuple[int, dict[str, str]])
        except (ValueError, KeyError, TypeError, RecursionError, msgspec.MsgspecError):
            return None  # of another version of ours, or of nobody's
        if said != self._json(hashed) or hashed != content():
            return None
        if _written(target) != found.get(WRITTEN_KEY.encode(), b"").decode(errors="replace"):
            return None
        return Counts(*bad, unavailable)

    def _json(self, content: object) -> dict[str, object]:
        return {**vars(self), "source": {**self.source, "content": content}}


def check_replaceable(target: Path) -> dict[bytes, bytes] | None:
    """Returns the metadata of an earlier output at `target`, None where nothing is.

    Raises PepnetError for any other file: it may be somebody's only copy.
    """
    if not os.path.lexists(target):
        return None
    try:
        with open(regular(target), "rb") as file:  # Arrow takes some paths, s3:x/y for one, for URLs
            found: dict[bytes, bytes] = pq.read_metadata(file).metadata or {}
    except (PepnetError, pa.ArrowException, OSError, ValueError) as error:
        raise PepnetError(f"{target}: expected nothing or an earlier output there, got: {clip(error)}") from error
    if REQUEST_KEY.encode() not in found:
        raise PepnetError(f"{target}: expected nothing or an earlier output there, got a file of another origin")
    return found


def hash_of(handle: int, footer: int = 0) -> str:
    """Returns a hash of a file, without its last `footer` bytes. Raises OSError."""
    digest, at, end = xxhash.xxh3_128(), 0, os.fstat(handle).st_size - footer
    while at < end and (data := os.pread(handle, min(end - at, _CHUNK), at)):
        digest.update(data)
        at += len(data)
    return digest.hexdigest()


def _written(target: Path) -> str:
    """Returns a hash of all that a parquet file holds before its footer."""
    with readable(target), open(target, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        footer, _ = _TAIL.unpack(os.pread(file.fileno(), _TAIL.size, size - _TAIL.size))
        return hash_of(file.fileno(), footer + _TAIL.size)
