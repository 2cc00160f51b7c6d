"""The C++ core, built without Python for the tests that look at it from outside."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pepnet_infer._kernels import CudaLibrary
from pepnet_infer.backends.cuda.backend import open_library

ROOT = Path(__file__).parents[3]
JOBS = str(os.cpu_count() or 2)
Call = Callable[..., "subprocess.CompletedProcess[str]"]


def tool(name: str) -> str | None:
    """A program from this interpreter's environment or the path."""
    return shutil.which(name, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    words = [str(part) for part in command]
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=600)


@pytest.fixture(scope="session")
def call() -> Call:
    """Runs a program → its exit status and what it said."""
    return run


@pytest.fixture(scope="session")
def configure() -> Call:
    """`configure(folder, *options)` runs cmake over the project; skips where there is no compiler."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++", "c++"]
    compiler = next((path for name in names if (path := shutil.which(name))), None)

    def configured(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
        if compiler is None:
            pytest.skip(f"no C++ compiler on this machine (looked for {', '.join(names)})")
        cmake = tool("cmake")
        assert cmake, "cmake is not installed: pip install 'pepnet-infer[dev]'"
        generator = ["-G", "Ninja"] if tool("ninja") else []
        return run(cmake, "-S", ROOT, "-B", folder, *generator, f"-DCMAKE_CXX_COMPILER={compiler}", *options)

    return configured


@pytest.fixture(scope="session")
def build(configure: Call) -> Callable[..., Path]:
    """`build(folder, *options)` builds the core and its tests there and returns the folder."""

    def built(folder: Path, *options: str) -> Path:
        done = configure(folder, "-DPEPNET_BUILD_PYTHON=OFF", "-DPEPNET_BUILD_TESTS=ON", *options)
        assert done.returncode == 0, done.stdout
        done = run(str(tool("cmake")), "--build", folder, "--parallel", JOBS)
        assert done.returncode == 0, done.stdout
        return folder

    return built


@pytest.fixture(scope="session")
def build_target() -> Callable[[Path, str], None]:
    """`build_target(folder, name)` builds what is not built as a rule, in a folder of `build`."""

    def built(folder: Path, name: str) -> None:
        done = run(str(tool("cmake")), "--build", folder, "--target", name, "--parallel", JOBS)
        assert done.returncode == 0, done.stdout

    return built


@pytest.fixture(scope="session")
def core(build: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release build of the core with its tests, as a wheel has it: in the folder of the wheel's, where that is left.

    PEPNET_BUILD names that folder. The tests add their own targets there.
    """
    wheel = Path(os.environ.get("PEPNET_BUILD") or "nowhere")
    known = cached(wheel)
    if known.get("CMAKE_HOME_DIRECTORY") != str(ROOT):
        return build(tmp_path_factory.mktemp("core"), "-DCMAKE_BUILD_TYPE=Release")
    # Another cmake or ninja than the wheel's would begin anew; those of an environment that pip made are gone.
    cmake, ninja = (
        path if shutil.which(path := known.get(name, "")) else tool(ours)
        for name, ours in (("CMAKE_COMMAND", "cmake"), ("CMAKE_MAKE_PROGRAM", "ninja"))
    )
    options = ("-DPEPNET_BUILD_PYTHON=OFF", "-DPEPNET_BUILD_TESTS=ON", f"-DCMAKE_MAKE_PROGRAM={ninja}")
    for words in (
        ("-S", ROOT, "-B", wheel, *options),
        ("--build", wheel, "--target", "kernels_test", "--parallel", JOBS),
    ):
        done = run(str(cmake), *words)
        assert done.returncode == 0, done.stdout
    return wheel


@pytest.fixture(scope="session")
def built(core: Path, build_target: Callable[[Path, str], None]) -> Path:
    """The CUDA kernels on the CPU, as a library."""
    build_target(core, "pepnet_cuda_emulated")
    return core / "tests" / "kernels" / "cpp" / "libpepnet_cuda_emulated.so"


@pytest.fixture(scope="session")
def library(built: Path) -> CudaLibrary:
    """The same, loaded."""
    return open_library(built)


def cached(folder: Path) -> dict[str, str]:
    """What cmake remembers of a build folder, by name."""
    file = folder / "CMakeCache.txt"
    lines = file.read_text().splitlines() if file.is_file() else []
    found = (re.fullmatch(r"(\w+):\w+=(.*)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}
