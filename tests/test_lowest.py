"""`make test-lowest` installs what pyproject.toml promises to run with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Not imported by what is tested, or not to be had at their lowest for a CPU (torch).
LEFT_OUT = {"cmake", "onnxruntime-gpu", "pybind11", "torch"}
#: Extras that `make test-lowest` does not install: their tools ask for newer releases than the package does.
TOOLS = {"docs", "lint"}


def test_every_lower_bound_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: asked for name, asked in project["optional-dependencies"].items() if name not in TOOLS}
    asked = [*project["dependencies"], *(one for extra in extras.values() for one in extra)]
    command = re.search(r'"\.\[([\w,]+)\]"', (ROOT / "Makefile").read_text())
    assert command is not None
    assert not TOOLS & set(command[1].split(","))
    found = (re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", one) for one in asked)
    bounds = {match[1]: match[2] for match in found if match and match[1] not in LEFT_OUT}
    lines = [line for line in (ROOT / "tests" / "lowest.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert pins.keys() == bounds.keys()
    for name, bound in bounds.items():
        assert re.fullmatch(rf"{re.escape(bound)}(\.0)*", pins[name]), f"{name}: {pins[name]} is not {bound}"
