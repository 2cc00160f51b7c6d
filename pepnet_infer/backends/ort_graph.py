"""What of an ONNX graph is looked at before onnxruntime loads it."""

from __future__ import annotations

import io
import os
import re
from typing import BinaryIO

from pepnet_infer.errors import BundleError
from pepnet_infer.storage.document import open_regular

#: The key that a tensor has whose values lie elsewhere, as protobuf writes it: its length in front. The length may be
#: written longer than needed, and ends in 0 then.
_ELSEWHERE = re.compile(rb"[\x08\x00]location")
_LONGEST = 9
_CHUNK = 1 << 20


def check_graph_is_whole(where: str, graph: str | bytes) -> None:
    """Raises BundleError for a graph that has values outside of itself, in other files or at addresses in memory.

    Releases of onnxruntime that pyproject allows, such as 1.20, follow any path there is, and any address. A string
    "location" anywhere in the graph is taken for such a reference: no graph that export writes has one.

    graph: the path of a regular file, or the graph itself.
    """
    with io.BytesIO(graph) if isinstance(graph, bytes) else _open(graph) as file:
        before = b""
        while chunk := file.read(_CHUNK):
            if _ELSEWHERE.search(before + chunk):
                raise BundleError(f"{where}: expected a graph with all of its values in it, got one that names others")
            before = chunk[1 - _LONGEST :]


def _open(path: str) -> BinaryIO:
    try:
        # of a forked child's own descriptor there is a link by this name
        return open(path, "rb") if path.startswith("/proc/self/fd/") else open_regular(path)
    except OSError as error:
        raise BundleError(f"{path}: expected a readable file, got: {os.strerror(error.errno or 0)}") from error
