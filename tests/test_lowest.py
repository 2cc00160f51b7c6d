"""`make test-lowest` installs what pyproject.toml promises to run with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Not imported by what is tested, or not to be had at their lowest for a CPU (torch).
LEFT_OUT = {"clang-format", "cmake", "mypy", "onnxruntime-gpu", "pyarrow-stubs", "pybind11", "ruff", "torch"}
LEFT_OUT |= {"mdx-truly-sane-lists", "mkdocs", "mkdocs-material", "mkdocstrings"}


def test_every_lower_bound_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    found = (re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", one) for one in asked)
    bounds = {match[1]: match[2] for match in found if match and match[1] not in LEFT_OUT}
    lines = [line for line in (ROOT / "tests" / "lowest.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert pins.keys() == bounds.keys()
    for name, bound in bounds.items():
        assert re.fullmatch(rf"{re.escape(bound)}(\.0)*", pins[name]), f"{name}: {pins[name]} is not {bound}"
