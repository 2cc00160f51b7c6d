"""What griffe has to know of this package.

A comment `#: …` above an attribute, or behind it, is its docstring. What a method puts into `self`, or has
no type, and has no such comment, is the class's own business.
"""

from __future__ import annotations

from typing import Any

import griffe


class AttributeComments(griffe.Extension):
    """Takes `#:` comments for docstrings of attributes, and leaves out attributes that only methods make."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Reads the comments of an attribute."""
        if attr.docstring is not None or attr.lineno is None:
            return
        lines, above = attr.lines_collection[attr.filepath], attr.lineno - 1  # numbers of lines begin with 1
        said: list[str] = []
        while above and lines[above - 1].lstrip().startswith("#:"):
            said.insert(0, lines[above - 1].lstrip().removeprefix("#:").strip())
            above -= 1
        if "  #: " in lines[attr.lineno - 1]:
            said.append(lines[attr.lineno - 1].partition("  #: ")[2].strip())
        if said:
            attr.docstring = griffe.Docstring("\n".join(said), lineno=above + 1, parent=attr)

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Drops what is no field of the class."""
        for name, member in list(cls.members.items()):
            if not isinstance(member, griffe.Attribute) or member.has_docstring:
                continue
            if member.annotation is None or (member.lines and "self." in member.lines[0]):
                cls.del_member(name)
