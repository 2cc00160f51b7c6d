"""Wide instructions stay in their own object files: elsewhere one would be an illegal instruction on another CPU."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86-64 instructions")

# What the disassembly of an object may have, by its name's beginning; everything else may have none of it.
WIDE = {
    "VEX": (re.compile(r"\tv[a-z]"), ("avx2", "avx512", "amx")),
    "ymm": (re.compile(r"%ymm"), ("avx2", "avx512", "amx")),
    "fma": (re.compile(r"\tvfn?m(add|sub)"), ("avx2", "avx512", "amx")),
    "zmm": (re.compile(r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])|%k[0-7]"), ("avx512", "amx")),
    "tmm": (re.compile(r"%tmm|\t(ldtilecfg|tilerelease)"), ("amx",)),
}
# What an object must have, or the test has looked at nothing.
MUST = {
    "avx2": {"ymm", "fma"},
    "avx512": {"zmm"},
    "avx512_bf16": {"zmm"},
    "avx512_vnni": {"zmm"},
    "amx": {"zmm", "tmm"},
}
LIBRARY = {"memcpy", "memset", "memmove", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}


@pytest.fixture(scope="module")
def objects(core: Path) -> list[Path]:
    for name in ("objdump", "nm"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed (binutils)")
    found = sorted((core / "CMakeFiles" / "pepnet_core.dir").rglob("*.o"))
    assert len(found) > 10
    return found


def is_isa(path: Path) -> bool:
    return path.parent.name == "isa"


def test_wide_registers_stay_in_their_files(objects: list[Path], call: Call) -> None:
    seen: dict[str, set[str]] = {}
    for path in objects:
        name = path.name.split(".")[0]
        text = call("objdump", "-d", "--no-show-raw-insn", path).stdout
        assert re.search(r"\tret", text), f"{path.name}: objdump shows no instructions"
        for kind, (pattern, where) in WIDE.items():
            match = pattern.search(text)
            if match is None:
                continue
            line = text[text.rfind("\n", 0, match.start()) + 1 : text.find("\n", match.end())]
            allowed = is_isa(path) and name.startswith(where)
            assert allowed, f"{path.name} has {kind}: {line.strip()}"
            seen.setdefault(name, set()).add(kind)
    built = {path.name.split(".")[0] for path in objects if is_isa(path)}
    for name, kinds in MUST.items():
        if name in built:
            assert kinds <= seen[name], f"{name}: expected {kinds}, saw {seen[name]}"


def test_inner_loops_keep_their_pointers_in_general_registers(objects: list[Path], call: Call) -> None:
    """g++ tuned for any CPU puts some in vector registers: a fifth of the rate goes into moving them back."""
    for path in (path for path in objects if is_isa(path) and path.name.startswith(("avx512", "amx"))):
        text = call("objdump", "-d", "--no-show-raw-insn", path).stdout
        found = re.search(r"\tvmovq +%xmm\d+,%r\w+", text)
        assert found is None, f"{path.name}: {found[0].strip() if found else ''}"


def test_only_tables_are_shared(objects: list[Path], call: Call) -> None:
    """A function that two objects define is one the linker takes from either, compiled for whatever that one was."""
    for path in filter(is_isa, objects):
        defined = call("nm", "--defined-only", "--extern-only", "--format=posix", path).stdout.splitlines()
        assert defined
        for line in defined:
            symbol, kind = line.split()[:2]
            assert re.fullmatch(r"_ZN6pepnet\d+k(Scalar|Avx|Amx)\w+E", symbol), f"{path.name} defines {line}"
            assert kind in "DRB", f"{path.name} defines {line}"
        needed = {line.split()[0] for line in call("nm", "-u", "--format=posix", path).stdout.splitlines()}
        assert needed <= LIBRARY, f"{path.name} calls {needed - LIBRARY}"


def test_what_the_compiler_lacks_is_left_out(configure: Call, tmp_path: Path) -> None:
    done = configure(tmp_path, "-DPEPNET_BUILD_PYTHON=OFF", "-DPEPNET_WITHOUT_ISA=avx512;amx")
    assert done.returncode == 0, done.stdout
    said = " ".join(done.stdout.split())
    for name in ("avx512", "avx512_bf16", "avx512_vnni", "amx"):
        assert f"kernels: {name} left out" in said
    commands = (tmp_path / "compile_commands.json").read_text()
    assert "isa/avx2.cc" in commands
    assert "isa/avx512" not in commands
    assert "isa/amx" not in commands
    dispatch = next(line for line in commands.splitlines() if "command" in line and "dispatch.cc" in line)
    assert "-DPEPNET_HAS_AVX2=1" in dispatch
    for name in ("AVX512", "AVX512_BF16", "AVX512_VNNI", "AMX"):
        assert f"-DPEPNET_HAS_{name}=0" in dispatch
