"""Files that the pages name are there: a move leaves names behind that lead nowhere."""

from __future__ import annotations

import re

import pytest
from page_blocks import ROOT

FOLDERS = ("pepnet_infer", "export", "kernels", "bench", "tests", "examples", "docs")
PATHS = [
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if "__pycache__" not in path.parts
]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_FILE = re.compile(r"`([\w./-]*\w\.(?:py|pyi|cc|h|cu|yaml|cmake|sh))`")
_FOLDER = re.compile(r"`((?:pepnet_infer|export|kernels|bench|tests|examples)(?:/[\w.-]+)*/)`")
#: Of a reader's own, in examples.
THEIRS = {"gunicorn_conf.py", "app.py", "F.yaml", "my_peer.py"}


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_page_names_files_that_are_there(page: str) -> None:
    text = (ROOT / page).read_text()
    files = {name for name in _FILE.findall(text) if "NAME" not in name} - THEIRS
    assert [name for name in sorted(files) if not any(f"/{path}".endswith(f"/{name}") for path in PATHS)] == []
    folders = set(_FOLDER.findall(text))
    assert [name for name in sorted(folders) if not (ROOT / name).is_dir()] == []
