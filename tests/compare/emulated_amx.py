"""A copy of a source tree whose AMX kernels run on any CPU with AVX-512: their tile instructions are emulated."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path


def emulate_amx(source: Path, copy: Path) -> Path:
    """Copies the tracked files of `source` to `copy` and returns `copy`.

    The kernels around the instructions are compiled as they are. Only what needs the hardware is replaced: the
    instructions, by the emulation under the C++ tests; the permission to use tiles; and the features that dispatch
    asks for. Raises ValueError where a file that must change is not there, or does not have the lines expected.
    """
    shutil.rmtree(copy, ignore_errors=True)
    listed = subprocess.run(["git", "-C", str(source), "ls-files", "-z"], capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if name and (source / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, copy / name)
    emulation = _only(copy / "tests", "tile_emulation.h")
    _replace(
        _only(copy / "kernels", "amx.cc"),
        (r"\n// (Tile numbers are part|In assembly, for tile).*?\n}  // namespace\n", "\n}  // namespace\n"),
        (r"\n\nnamespace pepnet {", f'\n#include "{emulation}"\n\nnamespace pepnet {{'),
        (r"\bPairTiles\b", "EmulatedPairTiles"),
        (r"\bByteTiles\b", "EmulatedByteTiles"),
    )
    _replace(emulation, (r'"check\.h"', f'"{_only(copy / "tests", "check.h")}"'))
    asks = next(path for path in (copy / "kernels").rglob("*.cc") if "bool amx_permitted() {" in path.read_text())
    _replace(asks, (r"bool amx_permitted\(\) {.*?\n}\n", "bool amx_permitted() { return true; }\n"))
    _replace(_only(copy / "kernels", "dispatch.cc"), (r'"amx_tile amx_bf16 amx_int8 "', '""'))
    return copy


def _only(folder: Path, name: str) -> Path:
    found = list(folder.rglob(name))
    if len(found) != 1:
        raise ValueError(f"{folder}: expected one file {name}, got {len(found)}")
    return found[0]


def _replace(path: Path, *edits: tuple[str, str]) -> None:
    text = path.read_text()
    for pattern, new in edits:
        text, count = re.subn(pattern, lambda match, new=new: new, text, flags=re.DOTALL)
        if not count:
            raise ValueError(f"{path}: expected {pattern}, which is not there")
    path.write_text(text)
