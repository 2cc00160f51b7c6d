"""The one place that imports onnxruntime, so that its telemetry is off before it is there."""

from __future__ import annotations

import os
import threading
from importlib import import_module
from typing import Any

from pepnet_infer import forks
from pepnet_infer.errors import BackendError

#: From 1.29 on onnxruntime sends usage data to its maker and keeps a device id under the home folder, unless this is 1
#: when it is imported.
_VARIABLE = "ORT_DISABLE_TELEMETRY"

#: Held while onnxruntime is imported and while it opens a session, and so by whoever forks: the library has locks for
#: the whole process then, which a child would find held for ever.
OPENING = threading.Lock()


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


def _before() -> None:
    OPENING.acquire()


def _after() -> None:
    OPENING.release()


forks.register(forks.Stage.BACKENDS, before=_before, parent=_after, child=_after)
