"""Process-wide settings that export changes and restores, one thread at a time."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator

import torch

from pepnet_infer.process import forks

#: Two exports at once would each put back what the other had set.
_ONE_AT_A_TIME = threading.RLock()


def _after_fork() -> None:
    global _ONE_AT_A_TIME
    _ONE_AT_A_TIME = threading.RLock()


forks.register(forks.Stage.LEAVES, child=_after_fork)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread: its sums depend on the number, and figures of equal exports should be equal."""
    with _ONE_AT_A_TIME:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps this thread's notices off the terminal; what goes wrong still raises, and other threads log as before."""
    me = threading.get_ident()

    def only_errors(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING or record.thread != me

    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        handlers: set[logging.Handler] = {logging.lastResort} if logging.lastResort else set()
        for logger in (logging.root, *logging.root.manager.loggerDict.values()):
            handlers.update(getattr(logger, "handlers", ()))  # a placeholder of a logger has none
        for handler in handlers:
            handler.addFilter(only_errors)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(only_errors)
