"""Forked children of tests: what runs in them, how they end, and the guard that ends one that hangs."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

#: A child that runs for longer hangs. It is killed, and its test fails.
PATIENCE_S = 60.0


def fork(work: Callable[[], object]) -> int:
    """Returns the process id of a forked child that runs `work` and ends there, with 1 and a traceback if it raises."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        child = os.fork()
    if child == 0:  # nothing but `_exit` may end it: pytest is the parent's
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def ended(child: int) -> int:
    """Waits for a child and returns its exit code, or minus the signal that killed it."""
    file = os.pidfd_open(child)
    try:
        in_time, _, _ = select.select([file], [], [], PATIENCE_S)
    finally:
        os.close(file)
    if not in_time:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert in_time, f"child {child} hangs: it was killed after {PATIENCE_S:.0f} s"
    return os.waitstatus_to_exitcode(status)


def well_in_a_child(work: Callable[[], object]) -> None:
    """Runs `work` in a forked child, which must return from it."""
    code = ended(fork(work))
    assert code == 0, f"the child ended with {code}; what it raised is on stderr"


def run_program(code: str, *words: object, timeout: float) -> str:
    """Returns what a Python program prints. It runs in a process of its own and can import this module."""
    there = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(Path(__file__).parent), *([there] if there else [])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, words)],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr}"
    return done.stdout
