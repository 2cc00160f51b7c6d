"""Rooms of kernels/: includes run one way, and what serves is built without the studies."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Each room and those that it may include beside itself.
ROOMS: dict[str, set[str]] = {
    "cpu": set(),
    "threads": {"cpu"},
    "rows": {"cpu"},
    "encode": {"cpu", "rows"},
    "network": set(),
    "dense": {"cpu", "threads", "rows", "network"},
    "cache": {"cpu", "threads", "rows"},
    "studies": {"rows", "cache"},
    "cuda": {"dense", "network"},
    "wheel": set(),
    "python": {"cpu", "rows", "encode", "network", "dense", "cache", "studies", "cuda"},
}
#: Of Python's room the only file that may include the studies.
STUDIES = "studies.cc"


def test_includes_run_one_way() -> None:
    assert {folder.name for folder in (ROOT / "kernels").iterdir()} == set(ROOMS)
    found = 0
    for room, allowed in ROOMS.items():
        for file in sorted((ROOT / "kernels" / room).rglob("*")):
            if file.suffix not in (".h", ".cc", ".cu"):
                continue
            included = set(re.findall(r'^#include "(\w+)/', file.read_text(), re.MULTILINE)) - {room}
            found += len(included)
            if room == "python" and file.name != STUDIES:
                assert "studies" not in included, file
            assert included <= allowed, f"{file}: {room} may include {sorted(allowed)}, got {sorted(included)}"
    assert found > 40


def test_what_serves_is_built_without_the_studies() -> None:
    text = (ROOT / "CMakeLists.txt").read_text()
    listed = dict(re.findall(r"file\(GLOB (\w+) CONFIGURE_DEPENDS ([^)]+)\)", text))
    assert [name for name, files in listed.items() if "kernels/studies/" in files] == ["studies"]
    assert re.findall(r"add_library\((\w+) [^)]*\$\{studies\}", text) == ["pepnet_studies"]
    assert text.count("kernels/studies/") == text.count("${studies}") == 1
    linked = re.findall(r"target_link_libraries\((\w+) [^)]*pepnet_studies[^)]*\)", text)
    assert linked == ["_kernels"]
