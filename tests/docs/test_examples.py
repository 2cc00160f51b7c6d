"""The Python examples of README and guides run in order, and print what stands below them."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
from page_blocks import ROOT, blocks, shape

PAGES = ("README.md", "docs/quickstart.md", "docs/guides/score.md", "docs/guides/rows.md", "docs/guides/follow.md")


@pytest.mark.parametrize("page", PAGES)
def test_examples_of_a_page_print_what_it_says(page: str, demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo_folder)
    names: dict[str, Any] = {"__name__": "__main__"}
    found = blocks(page)
    assert any(block.language == "python" for block in found)
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * (block.line - 1) + block.text, str(ROOT / page), "exec"), names)
        said = after.text if after is not None and after.language == "text" else ""
        assert shape(printed.getvalue()) == shape(said), f"{page}:{block.line}"
