"""Stubs of an old glibc to link a wheel with, so that it runs on Linux as old as that: `glibc_stubs.py 2.28 FOLDER`.

The compiler stays g++, and the objects those of any other build; only what they are linked with is older. The stubs are
those that Zig's linker makes of glibc's lists of symbols (package ziglang): libraries with the symbols and versions of
that release and nothing behind them, and the functions that programs of that time had linked in (`stat`, `atexit`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

#: What the linker asks for (-lNAME) → what stands behind it. Up to glibc 2.33 threads are a library of their own.
LIBRARIES = {
    "c": "libc.so.6 libc_nonshared.a AS_NEEDED(libpthread.so.0 libld.so.2)",
    "m": "libm.so.6",
    "pthread": "libpthread.so.0",
    "dl": "libdl.so.2",
    "rt": "librt.so.1",
}


def make_stubs(version: str, folder: Path) -> None:
    """Writes the stubs of glibc `version` for x86-64 to `folder`, for -L."""
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch, "main.c")
        program.write_text("int main(void) { return 0; }\n")
        words = [sys.executable, "-m", "ziglang", "cc", "-target", f"x86_64-linux-gnu.{version}", "-O2"]
        caches = {f"ZIG_{which}_CACHE_DIR": scratch for which in ("GLOBAL", "LOCAL")}
        subprocess.run([*words, str(program), "-o", str(program.with_suffix(""))], env=os.environ | caches, check=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in re.findall(r"lib[\w.]+", " ".join(LIBRARIES.values())):
            (made,) = Path(scratch).glob(f"o/*/{name}")
            shutil.copy(made, folder / name)
    for name, behind in LIBRARIES.items():
        (folder / f"lib{name}.so").write_text(f"GROUP({behind})\n")


if __name__ == "__main__":
    make_stubs(sys.argv[1], Path(sys.argv[2]))
