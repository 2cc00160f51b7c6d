"""Quotes text from outside in messages: cut to a maximum length, on one line, without control characters.

Column names, values, file names and the messages of other libraries are written by whoever wrote the data. A message
that repeats them whole fills a log with a megabyte of it, and one that repeats an escape sequence moves the cursor of
whoever reads the log.
"""

from __future__ import annotations

import re
import reprlib
import sys
from collections.abc import Iterable

#: Characters of one value or name in a message; what is longer is cut, and its length said.
MOST_VALUE = 100
#: Characters of another library's message inside one of ours.
MOST_TEXT = 300
#: Characters of a whole message.
MOST_MESSAGE = 2000
#: Names in a list.
MOST_NAMES = 20

_BREAK = re.compile(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxfrozenset = _SHORT.maxdict = 8
_SHORT.maxstring = _SHORT.maxother = MOST_VALUE


def quote(value: object) -> str:
    """Returns `repr(value)`, of a long value its first `MOST_VALUE` characters and how many there are."""
    numpy = sys.modules.get("numpy")  # who has a value of it has imported it; errors alone need it not
    if numpy is not None and isinstance(value, numpy.generic):
        value = value.item()  # repr writes its type as well
    if isinstance(value, (str, bytes, bytearray)):
        text, unit = repr(value[:MOST_VALUE]), "characters" if isinstance(value, str) else "bytes"
        if len(text) <= MOST_VALUE + 3 and len(value) <= MOST_VALUE:
            return text
        return f"{text[:MOST_VALUE]}… ({len(value)} {unit})"
    if isinstance(value, int) and value.bit_length() > 8 * MOST_VALUE // 3:  # Python refuses to write very long ones
        return f"an integer of {value.bit_length()} bits"
    try:
        text = _SHORT.repr(value) if isinstance(value, (list, tuple, set, frozenset, dict)) else repr(value)
    except Exception:  # of somebody's class: the message in the making says something else
        text = f"a {type(value).__name__} without a repr"
    return clip(text, MOST_VALUE)


def clip(text: object, most: int = MOST_TEXT) -> str:
    """Returns the first `most` characters of `str(text)` on one line, its control characters escaped."""
    whole = str(text)
    # Cut before anything else is done with it: what is cut away may be gigabytes.
    line = printable(whole[: most + 1])
    return f"{line[:most]}…" if len(whole) > most or len(line) > most else line


def name_list(names: Iterable[object]) -> str:
    """Returns the first `MOST_NAMES` of `names`, quoted, and how many more there are."""
    given = list(names)
    rest = f" and {len(given) - MOST_NAMES} more" if len(given) > MOST_NAMES else ""
    return ", ".join(map(quote, given[:MOST_NAMES])) + rest


def printable(text: str) -> str:
    """Returns `text` with line breaks as single blanks and everything else that does not print escaped."""
    if text.isprintable():
        return text
    line = _BREAK.sub(" ", text)
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)
