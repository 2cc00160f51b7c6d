"""Tables as text, for a terminal, a file or a log: the one way in which this package prints them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

_GAP = "  "
_NARROWEST = 20  # to which a column of words is wrapped


def text_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[bool], width: int | None = None
) -> str:
    """Returns a table of at most `width` characters a line; None: as wide as it is.

    The first column is never cut or wrapped, whatever the width. Columns that do not fit beside it follow below, with
    the first one again; words that are longer than a line are wrapped. words: for each column, whether it holds words;
    figures are set to the right. An empty heading of all columns is left out.
    """
    columns = [list(column) for column in zip(head, *rows, strict=True)]
    longest = [max(map(len, column[1:]), default=0) for column in columns]
    widths = [max(longest[0], len(head[0]))]
    room = None if width is None else max(_NARROWEST, width - widths[0] - len(_GAP))
    for name, cells, word in zip(head[1:], longest[1:], words[1:], strict=True):
        # Headings of figures are wrapped to what the figures need, words to what there is room for.
        need = max(cells, len(name) if word else max(map(len, name.split()), default=0))
        widths.append(need if room is None or not word else min(need, room))
    blocks = []
    for at in _blocks(widths, room):
        lines = [[columns[i][r] for i in at] for r in range(len(rows) + 1)]
        blocks.append("\n".join(_lines(lines, [widths[i] for i in at], [words[i] for i in at])))
    return "\n".join(blocks)


def pad(line: Sequence[str], widths: Sequence[int], words: Sequence[bool]) -> list[str]:
    """Returns the cells of a line in columns of these widths."""
    return [c.ljust(w) if word else c.rjust(w) for c, w, word in zip(line, widths, words, strict=True)]


def _blocks(widths: Sequence[int], room: int | None) -> Iterator[list[int]]:
    """Yields the places of the columns of each block: as many as there is room for beside the first one."""
    chosen, used = [0], 0
    for at in range(1, len(widths)):
        if room is not None and len(chosen) > 1 and used + widths[at] > room:
            yield chosen
            chosen, used = [0], 0
        chosen.append(at)
        used += widths[at] + len(_GAP)
    yield chosen


def _lines(rows: Sequence[list[str]], widths: Sequence[int], words: Sequence[bool]) -> Iterator[str]:
    named = any(rows[0])
    for row in (rows[0], ["─" * width for width in widths], *rows[1:]) if named else rows[1:]:
        parts = [textwrap.wrap(cell, w) if len(cell) > w else [cell] for cell, w in zip(row, widths, strict=True)]
        for line in range(max(map(len, parts))):
            cells = [part[line] if line < len(part) else "" for part in parts]
            yield _GAP.join(pad(cells, widths, words)).rstrip()
