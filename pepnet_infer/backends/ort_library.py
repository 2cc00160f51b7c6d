"""The one place that imports onnxruntime, so that its telemetry is off before it is there."""

from __future__ import annotations

import os
import threading
from importlib import import_module
from typing import Any

from pepnet_infer.errors import BackendError
from pepnet_infer.process import forks

#: From 1.29 on onnxruntime sends usage data to its maker and keeps a device id under the home folder, unless this is 1
#: when it is imported.
_VARIABLE = "ORT_DISABLE_TELEMETRY"


class Opening:
    """`with OPENING:` around an import of onnxruntime and the opening of a session; a fork waits for those under way.

    The library has locks for the whole process then, which a child would find held for ever. The thread that is inside
    may fork itself, from a signal handler or an import hook.
    """

    def __init__(self) -> None:
        self._lock, self._forking = threading.RLock(), False

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._lock.release()

    def before_fork(self) -> None:
        """In the process that forks, before it does."""
        self._lock.acquire()
        self._forking = True

    def after_fork_in_parent(self) -> None:
        """In the process that forked."""
        self._forking = False
        self._lock.release()

    def after_fork(self) -> None:
        """In a child process. Servers in C fork without asking before: then a thread that is not here may hold it."""
        if self._forking:
            self.after_fork_in_parent()
        else:
            self._lock = threading.RLock()


OPENING = Opening()


def no_telemetry() -> None:
    """Turns the telemetry of onnxruntime off, here and in child processes. What the user has set stays."""
    os.environ.setdefault(_VARIABLE, "1")


def import_onnxruntime() -> Any:
    """Returns the module onnxruntime. Raises BackendError, which names the extra that has it."""
    no_telemetry()
    try:
        with OPENING:
            return import_module("onnxruntime")
    except ImportError as error:
        extras = "pip install 'pepnet-infer[cpu]', or 'pepnet-infer[gpu]' for CUDA"
        raise BackendError(f"backend: onnxruntime cannot be imported ({error}): {extras}") from error


forks.register(
    forks.Stage.BACKENDS,
    before=OPENING.before_fork,
    parent=OPENING.after_fork_in_parent,
    child=OPENING.after_fork,
)
