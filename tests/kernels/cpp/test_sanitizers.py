"""The C++ core under sanitizers: its own tests, and the Python tests of the kernels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pepnet_infer import _kernels

Call = Callable[..., "subprocess.CompletedProcess[str]"]
SUITES = (
    "activations",
    "cpu",
    "dense_model",
    "features",
    "file_map",
    "flights",
    "exact_cache",
    "huge_buffer",
    "key_index",
    "network",
    "ops",
    "pool_process",
    "row_cache",
    "row_cache_threads",
    "row_overlay",
    "rows",
    "thread_pool",
    "threads",
    "tiles",
)
ALONE = {"activations", "network", "ops", "row_cache", "row_overlay", "tiles"}  # of one thread: no races to find

ROOT = Path(__file__).parents[3]
#: What calls the kernels from Python, but for sweeps over many values, which are other values on the same paths.
PYTHON_TESTS = (
    "tests/kernels/test_native_float64.py",
    "tests/kernels/test_native_input.py",
    "tests/test_gated_expert_layer.py",
    "tests/encode/test_number_columns.py",
)
LEFT_OUT = ("million", "all_64")


def options(sanitizer: str) -> tuple[str, ...]:
    """What a sanitizer's build is configured with: optimised as little as lets it run in seconds.

    Files of the core are compiled twelve at once: most of what they include and instantiate is the same.
    """
    # Without the second option g++ leaves vector registers as they are, and what is compiled for SSE crawls after that.
    flags = "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -fexpensive-optimizations"
    fast = ("-DCMAKE_BUILD_TYPE=Debug", flags, "-DPEPNET_CUDA=off")
    fast += ("-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=12")
    return (*fast, f"-DPEPNET_SANITIZE={sanitizer}")


@pytest.fixture(scope="module")
def address_build(build: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ tests and the extension, built with the address and undefined behaviour sanitizers."""
    python = ("-DPEPNET_BUILD_PYTHON=ON", f"-DPython_EXECUTABLE={sys.executable}")
    # Instruction sets that this CPU has nothing of would be compiled and never run.
    tables = _kernels.isas()
    idle = {entry["isa"] for entry in tables} - {entry["isa"] for entry in tables if entry["usable"]}
    without = f"-DPEPNET_WITHOUT_ISA={';'.join(sorted(idle))}"
    return build(tmp_path_factory.mktemp("address"), *options("address,undefined"), *python, without)


def test_core_is_clean_under_address_and_undefined(address_build: Path, call: Call) -> None:
    check_suites(address_build, call, SUITES)


def test_core_as_it_is_shipped(core: Path, call: Call, record_property: pytest.RecordProperty) -> None:
    said = check_suites(core, call, SUITES)
    for isa, precision, products in re.findall(r"^ops (\w+) (\w+) \(.*\): (\d+) products$", said, re.MULTILINE):
        record_property(f"kernels {isa} {precision}", int(products))


def test_core_is_clean_under_thread(build: Callable[..., Path], call: Call, tmp_path: Path) -> None:
    # Who computes what is the same with all instruction sets: the widest are left out, which take longest to compile.
    build(tmp_path, *options("thread"), "-DPEPNET_WITHOUT_ISA=avx512;amx")
    check_suites(tmp_path, call, tuple(name for name in SUITES if name not in ALONE))


def check_suites(folder: Path, call: Call, suites: tuple[str, ...]) -> str:
    program = folder / "tests" / "kernels" / "cpp" / "kernels_test"
    ran = call(program, *suites)
    if "unexpected memory mapping" in ran.stdout and (setarch := shutil.which("setarch")):
        # Older thread sanitizers do not start where the kernel randomises addresses over more than 28 bits.
        ran = call(setarch, os.uname().machine, "-R", program, *suites)
    assert ran.returncode == 0, ran.stdout
    counts = dict(re.findall(r"^(\w+): (\d+) checks$", ran.stdout, re.MULTILINE))
    assert set(counts) == set(suites)
    assert all(int(count) > 0 for count in counts.values()), counts
    return ran.stdout


def test_python_tests_of_the_kernels_are_clean(address_build: Path, call: Call, tmp_path: Path) -> None:
    package = tmp_path / "pepnet_infer"  # laid out as the wheel is
    other = shutil.ignore_patterns("_kernels*.so", "__pycache__")
    shutil.copytree(ROOT / "pepnet_infer", package, ignore=other)
    shutil.copytree(ROOT / "export", package / "export", ignore=other)
    (extension,) = address_build.glob("_kernels*.so")
    shutil.copy(extension, package)
    # The sanitizer has to be in the process before anything else; Python's own leaks are not the subject.
    cache = (address_build / "CMakeCache.txt").read_text()
    (compiler,) = re.findall(r"^CMAKE_CXX_COMPILER:\w+=(.*)$", cache, re.MULTILINE)
    runtimes = [call(compiler, f"-print-file-name={name}").stdout.strip() for name in ("libasan.so", "libstdc++.so")]
    environment = {
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": str(tmp_path),
        "PEPNET_NO_DEV": "1",
    }
    where = "import pepnet_infer._kernels as k; print(k.__file__)"
    # The kernels of each instruction set are the subject of the suites above: one of them is enough here.
    usable = {entry["isa"] for entry in _kernels.isas() if entry["usable"]}
    others = usable - {"avx2" if "avx2" in usable else "scalar"}
    chosen = f"not ({' or '.join((*LEFT_OUT, *sorted(others)))})"
    options = ("-q", "-m", "not slow", "-p", "no:cacheprovider", "-k", chosen)
    for command in (("-c", where), ("-m", "pytest", *options, *PYTHON_TESTS)):
        ran = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        said = ran.stdout + ran.stderr
        assert ran.returncode == 0, said[-8000:]
        assert "AddressSanitizer" not in said
        assert "runtime error:" not in said
        assert str(tmp_path) in said or "passed" in said


def test_a_sanitizer_that_is_not_known_is_refused(configure: Call, tmp_path: Path) -> None:
    ran = configure(tmp_path, "-DPEPNET_SANITIZE=memmory")
    assert ran.returncode != 0
    assert "expected 'address,undefined' or 'thread', got 'memmory'" in " ".join(ran.stdout.split())
