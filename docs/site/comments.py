"""Griffe's view of this package's habits: a comment `#: …` above an attribute is its docstring."""

from __future__ import annotations

from typing import Any

import griffe


class AttributeComments(griffe.Extension):
    """Takes `#:` comments for docstrings of the attributes below them."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Reads the lines above the attribute."""
        if attr.docstring is not None or attr.lineno is None or not attr.filepath:
            return
        lines, above = attr.lines_collection[attr.filepath], attr.lineno - 1  # numbers of lines begin with 1
        said: list[str] = []
        while above and lines[above - 1].lstrip().startswith("#:"):
            said.insert(0, lines[above - 1].lstrip().removeprefix("#:").strip())
            above -= 1
        if said:
            attr.docstring = griffe.Docstring("\n".join(said), lineno=above + 1, parent=attr)
