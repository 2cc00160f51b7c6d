"""Builds the C++ core with sanitizers and runs its own tests: memory errors and races are not visible from Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITES = ("cpu", "dense_model", "huge_buffer", "key_index", "ops", "pool_process", "rows", "thread_pool", "threads")


def tool(name: str) -> str | None:
    """A program from this interpreter's environment or the path."""
    return shutil.which(name, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))


@pytest.fixture
def compiler() -> str:
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++", "c++"]
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no C++ compiler on this machine (looked for {', '.join(names)})")
    return found


def call(*command: str | Path) -> subprocess.CompletedProcess[str]:
    words = [str(part) for part in command]
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300)


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_core_is_clean_under(sanitizer: str, compiler: str, tmp_path: Path) -> None:
    cmake = tool("cmake")
    assert cmake, "cmake is not installed: pip install 'pepnet-infer[dev]'"
    generator = ["-G", "Ninja"] if tool("ninja") else []
    configured = call(
        *(cmake, "-S", ROOT, "-B", tmp_path, *generator, f"-DCMAKE_CXX_COMPILER={compiler}"),
        *("-DPEPNET_BUILD_PYTHON=OFF", "-DPEPNET_BUILD_TESTS=ON", "-DCMAKE_BUILD_TYPE=Debug"),
        f"-DPEPNET_SANITIZE={sanitizer}",
    )
    assert configured.returncode == 0, configured.stdout
    built = call(cmake, "--build", tmp_path, "--parallel", "4")
    assert built.returncode == 0, built.stdout
    program = tmp_path / "tests" / "cpp" / "kernels_test"
    ran = call(program)
    if "unexpected memory mapping" in ran.stdout and (setarch := shutil.which("setarch")):
        # Older thread sanitizers do not start where the kernel randomises addresses over more than 28 bits.
        ran = call(setarch, os.uname().machine, "-R", program)
    assert ran.returncode == 0, ran.stdout
    counts = dict(re.findall(r"^(\w+): (\d+) checks$", ran.stdout, re.MULTILINE))
    assert set(counts) == set(SUITES)
    assert all(int(count) > 0 for count in counts.values()), counts


def test_a_sanitizer_that_is_not_known_is_refused(compiler: str, tmp_path: Path) -> None:
    cmake = tool("cmake")
    assert cmake, "cmake is not installed: pip install 'pepnet-infer[dev]'"
    ran = call(cmake, "-S", ROOT, "-B", tmp_path, f"-DCMAKE_CXX_COMPILER={compiler}", "-DPEPNET_SANITIZE=memmory")
    assert ran.returncode != 0
    assert "expected 'address,undefined' or 'thread', got 'memmory'" in " ".join(ran.stdout.split())
