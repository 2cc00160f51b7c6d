"""What is in a wheel: the installed one, and those of `make wheels` where PEPNET_WHEELS names their folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

FOLDER = os.environ.get("PEPNET_WHEELS", "")
WHEELS = sorted(Path(FOLDER).glob("*.whl")) if FOLDER else []
#: Sources of the extension and of the benchmarks' peers, results, tests, and what a build leaves.
NOT_IN = re.compile(
    r"^(?!.*\.dist-info/).*(\.(cc|cu|h|cmake|a|o|json|png|html)$|(^|/)(tests|results|native|wheel|__pycache__)/|CMakeLists|\.ci)"
)
WANTED = (
    "pepnet_infer/__init__.py",
    "pepnet_infer/py.typed",
    "pepnet_infer/_kernels.pyi",
    "pepnet_infer/export/__init__.py",
    "pepnet_infer/bench/presets/kuaishou.yaml",
)

pytestmark = pytest.mark.skipif(bool(FOLDER) and not WHEELS, reason=f"no wheel in {FOLDER}")


def _check(names: list[str]) -> None:
    assert not [name for name in names if NOT_IN.search(name)]
    for name in WANTED:
        assert name in names
    assert sum(bool(re.fullmatch(r"pepnet_infer/_kernels\.cpython-\d+-\S+\.so", name)) for name in names) == 1
    assert any(re.fullmatch(r"pepnet_infer-[\d.]+\.dist-info/licenses/LICENSE", name) for name in names)
    outside = [name for name in names if not re.match(r"pepnet_infer(-[\d.]+\.(dist-info|data))?/", name)]
    assert outside in ([], ["../../../bin/pepnet-infer"])


def test_installed_files_are_the_package_its_license_and_its_command() -> None:
    files = metadata.files("pepnet-infer")
    assert files
    _check(
        [
            str(file)
            for file in files
            if "__pycache__" not in str(file) and not str(file).startswith("pepnet_infer.libs")
        ]
    )


@pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.name)
def test_wheel_has_the_package_and_its_license(wheel: Path) -> None:
    _check(zipfile.ZipFile(wheel).namelist())


@pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.name)
def test_wheel_needs_no_newer_system_than_its_name_says(wheel: Path, tmp_path: Path) -> None:
    assert wheel.name.endswith("-manylinux_2_28_x86_64.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        extension = Path(archive.extract(name, tmp_path))
    said = subprocess.run(["readelf", "--wide", "--dyn-syms", extension], capture_output=True, text=True, check=True)
    symbols = [line.split() for line in said.stdout.splitlines() if re.match(r"\s*\d+:", line)]
    missing = [words[7] for words in symbols if len(words) > 7 and words[6] == "UND" and words[4] != "WEAK"]
    versions = [re.search(r"@(GLIBC|GCC|GLIBCXX|CXXABI)_([\d.]+)", name) for name in missing]
    without = {name for name, version in zip(missing, versions, strict=True) if not version}
    # Of the interpreter alone: another one without a version would be looked for when it is called, and not be there.
    assert {name for name in without if not name.startswith(("Py", "_Py"))} == set()
    asked = {version.groups() for version in versions if version}
    assert {library for library, _ in asked} == {"GLIBC", "GCC"}
    for library, newest in (("GLIBC", (2, 28)), ("GCC", (7, 0, 0))):
        assert max(tuple(map(int, number.split("."))) for name, number in asked if name == library) <= newest
    shown = {words[7] for words in symbols if len(words) > 7 and words[6] != "UND" and words[4] != "LOCAL"}
    assert shown == {"PyInit__kernels"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "wheel", [w for w in WHEELS if f"-cp3{sys.version_info[1]}-" in w.name], ids=lambda wheel: wheel.name
)
def test_example_of_the_readme_runs_where_only_the_wheel_is_installed(
    wheel: Path, demo_folder: Path, tmp_path: Path
) -> None:
    """In a new environment with the wheel and what it depends on, and no compiler, CMake or git on the PATH."""
    from page_blocks import blocks, shape

    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    where = {"PATH": str(python.parent), "HOME": str(tmp_path)}
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True, env=kept | where)
    example, printed = (block.text for block in blocks("README.md")[1:3])
    done = subprocess.run(
        [python, "-c", example], cwd=demo_folder, env=where, capture_output=True, text=True, check=True
    )
    assert shape(done.stdout) == shape(printed)
