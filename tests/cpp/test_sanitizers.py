"""Builds the C++ core with sanitizers and runs its own tests: memory errors and races are not visible from Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., "subprocess.CompletedProcess[str]"]
SUITES = (
    "cpu",
    "dense_model",
    "huge_buffer",
    "key_index",
    "ops",
    "pool_process",
    "rows",
    "thread_pool",
    "threads",
    "tiles",
)
ALONE = {"ops", "tiles"}  # of one thread: no races to find


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_core_is_clean_under(sanitizer: str, build: Callable[..., Path], call: Call, tmp_path: Path) -> None:
    build(tmp_path, "-DCMAKE_BUILD_TYPE=Debug", f"-DPEPNET_SANITIZE={sanitizer}")
    program = tmp_path / "tests" / "cpp" / "kernels_test"
    suites = [name for name in SUITES if sanitizer != "thread" or name not in ALONE]
    ran = call(program, *suites)
    if "unexpected memory mapping" in ran.stdout and (setarch := shutil.which("setarch")):
        # Older thread sanitizers do not start where the kernel randomises addresses over more than 28 bits.
        ran = call(setarch, os.uname().machine, "-R", program, *suites)
    assert ran.returncode == 0, ran.stdout
    counts = dict(re.findall(r"^(\w+): (\d+) checks$", ran.stdout, re.MULTILINE))
    assert set(counts) == set(suites)
    assert all(int(count) > 0 for count in counts.values()), counts


def test_a_sanitizer_that_is_not_known_is_refused(configure: Call, tmp_path: Path) -> None:
    ran = configure(tmp_path, "-DPEPNET_SANITIZE=memmory")
    assert ran.returncode != 0
    assert "expected 'address,undefined' or 'thread', got 'memmory'" in " ".join(ran.stdout.split())
