"""docs/troubleshooting.md quotes errors as the code words them."""

from __future__ import annotations

import re
from functools import cache

import pytest
from page_blocks import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
#: Quoted sentences of the first column: code in backticks with a blank in it.
SENTENCES = [
    sentence
    for line in PAGE.read_text().splitlines()
    if line.startswith("| `")
    for sentence in re.findall(r"`([^`]* [^`]*)`", line.split("|")[1])
    if not sentence.startswith("pip ")
]


@cache
def _code() -> str:
    """Returns all Python of the package, strings that are continued on the next line joined."""
    files = [file for folder in ("pepnet_infer", "export") for file in sorted((ROOT / folder).rglob("*.py"))]
    text = "\n".join(file.read_text() for file in files)
    return re.sub(r'"\s*\n\s*f?"', "", text)


def test_the_page_quotes_errors() -> None:
    assert len(SENTENCES) > 12


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_quoted_error_is_worded_like_this_in_the_code(sentence: str) -> None:
    for part in sentence.split("…"):
        # Often a function is given what stands between "expected" and "got".
        wanted = part.strip().removeprefix("expected ").removesuffix(", got")
        assert wanted in _code(), f"{sentence!r}: no code says {wanted!r}"
