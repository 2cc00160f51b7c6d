"""Pages as tests read them: their fenced blocks, and what they may print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"[-+]?\d+(,\d{3})*(\.\d+)?(e[-+]?\d+)?\.?")


class Block(NamedTuple):
    """A fenced block: its language, what it holds, and the line it begins at."""

    language: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    """Returns the fenced blocks of a page, named by its path in the repository."""
    text = (ROOT / page).read_text()
    return [Block(found[1], found[2], text.count("\n", 0, found.start()) + 2) for found in _FENCE.finditer(text)]


def shape(printed: str) -> str:
    """Returns what is printed with every number as #, and the space around numbers as one blank.

    Scores depend on the weights that training ends with, which depend on the machine; everything else must not.
    """
    lines = (" ".join(_NUMBER.sub("#", line).split()) for line in printed.strip().splitlines())
    return "\n".join(re.sub(r"(?<=[\[(]) | (?=[\])])", "", line) for line in lines)


def table_below(page: str, mark: str) -> list[list[str]]:
    """Returns the cells of the first table at or below the line of a page that begins with `mark`, without its head."""
    lines = (ROOT / page).read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(mark))
    begin = next(i for i in range(at, len(lines)) if lines[i].startswith("|"))
    rows: list[list[str]] = []
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[2:]
