"""An ONNX Runtime session of a graph from outside, in a process that forks, and may end while threads use it."""

from __future__ import annotations

import io
import os
import re
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pepnet_infer.backends.ort_library import OPENING
from pepnet_infer.errors import BackendError, BundleError, readable
from pepnet_infer.process import forks
from pepnet_infer.process.exits import INSIDE
from pepnet_infer.quoting import clip
from pepnet_infer.storage.document import open_regular

Array = npt.NDArray[np.float32]

#: The key that a tensor has whose values lie elsewhere, as protobuf writes it: its length in front. The length may be
#: written longer than needed, and ends in 0 then.
_ELSEWHERE = re.compile(rb"[\x08\x00]location")
_LONGEST = 9
_CHUNK = 1 << 20


class OrtSession:
    """A session that a forked child opens anew when it first runs it; on a GPU it raises there. Any thread may call.

    A session has threads, which a child does not have, and locks that may be held: in a child it may not even be
    destroyed. So it is left there as it is, with its memory, for as long as the child lives.
    """

    def __init__(self, open_session: Callable[[str | bytes], Any], graph: Path | bytes, on_gpu: bool = False) -> None:
        """open_session: makes a session of a path or of the graph itself. Raises what it raises, BundleError.

        A file is held open: a child reads the graph that its parent read, whatever has taken the file's name since.
        """
        self._open_session, self._on_gpu = open_session, on_gpu
        self._lock, self._process = threading.Lock(), os.getpid()
        self._file: int | None = None
        if isinstance(graph, Path):
            with readable(graph, error=BundleError):
                self._file = os.open(graph, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._file).atexit = False
            self._where, self._as_read = graph, _identity(self._file)
        # What a child opens: of a file the descriptor.
        self._graph = graph if isinstance(graph, bytes) else f"/proc/self/fd/{self._file}"
        with INSIDE:
            self._session: Any = self._open(str(graph) if isinstance(graph, Path) else graph)
        if isinstance(graph, Path) and not os.path.samestat(os.stat(graph), os.fstat(self._file or 0)):
            raise BundleError(f"{graph}: expected one file while it was loaded, got another in its place")
        forks.register(forks.Stage.BACKENDS, child=self._reset_after_fork)

    def session(self) -> Any:
        """Returns the session of this process. Raises BackendError in a child where it cannot be opened."""
        session = self._session
        # Python may not have seen the fork.
        return self._again() if session is None or os.getpid() != self._process else session

    def run(self, outputs: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """Returns the named outputs.

        Raises BackendError in a child where the session cannot be opened, and where onnxruntime cannot run it.
        """
        with INSIDE:
            session = self.session()
            try:
                found: list[Array] = session.run(outputs, feed)
            except Exception as error:
                # onnxruntime's exceptions share no base; what else a thread is given meanwhile is not its own
                if type(error) is not RuntimeError and not type(error).__module__.startswith("onnxruntime"):
                    raise
                rows = max(map(len, feed.values()), default=0)
                raise BackendError(f"onnxruntime: expected scores of {rows} rows, got: {clip(error)}") from error
            return found

    def _open(self, graph: str | bytes) -> Any:
        with OPENING:
            return self._open_session(graph)

    def _again(self) -> Any:
        if os.getpid() != self._process:
            self._reset_after_fork()
        if self._on_gpu:
            raise BackendError(
                "device: a GPU cannot be used in a child forked from a process that uses it: load the engine in the "
                "child, and start child processes with spawn or forkserver"
            )
        with self._lock:
            if self._session is None:
                if self._file is not None and _identity(self._file) != self._as_read:
                    raise BackendError(
                        f"{self._where}: expected the graph as the parent process read it, got a file changed in "
                        "place: load the engine again"
                    )
                self._session = self._open(self._graph)
            return self._session

    def _reset_after_fork(self) -> None:
        self._lock, self._process = threading.Lock(), os.getpid()
        if self._session is not None:
            forks.leak(self._session)
            self._session = None


def _identity(file: int) -> tuple[int, int]:
    found = os.fstat(file)
    return found.st_size, found.st_mtime_ns


def check_graph_is_whole(where: str, graph: str | bytes) -> None:
    """Raises BundleError for a graph that has values outside of itself, in other files or at addresses in memory.

    Releases of onnxruntime that pyproject allows, such as 1.20, follow any path there is, and any address. A string
    "location" anywhere in the graph is taken for such a reference: no graph that export writes has one.

    graph: the path of a regular file, or the graph itself.
    """
    with io.BytesIO(graph) if isinstance(graph, bytes) else _open_graph(graph) as file:
        before = b""
        while chunk := file.read(_CHUNK):
            if _ELSEWHERE.search(before + chunk):
                raise BundleError(f"{where}: expected a graph with all of its values in it, got one that names others")
            before = chunk[1 - _LONGEST :]


def _open_graph(path: str) -> BinaryIO:
    with readable(path, error=BundleError):
        # of a forked child's own descriptor there is a link by this name
        return open(path, "rb") if path.startswith("/proc/self/fd/") else open_regular(path)
