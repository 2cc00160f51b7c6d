"""Output on terminals and pipes that do not know every letter."""

from __future__ import annotations

import codecs
import io
import sys

_HANDLER = "pepnet_infer.spell"
#: How signs of ours are written where they do not exist.
_SPELLED = str.maketrans(
    {
        "×": "x",
        "·": "*",
        "→": "->",
        "←": "<-",
        "≤": "<=",
        "≥": ">=",
        "≈": "~",
        "±": "+-",
        "−": "-",
        "–": "-",
        "—": "-",
        "…": "...",
        "Δ": "delta ",
        "µ": "u",
        "•": "*",
        **dict.fromkeys(map(chr, range(0x2500, 0x25A0)), "-"),  # rules, boxes and bars
        **dict.fromkeys(map(chr, range(0x2800, 0x2900)), "*"),  # spinners
    }
)


def write_everything() -> None:
    """Makes stdout and stderr spell out what their encoding does not have, where that would raise an error.

    A handler that the user chose (PYTHONIOENCODING=ascii:replace) is left as it is.
    """
    codecs.register_error(_HANDLER, _spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "backslashreplace", "surrogateescape"):
            stream.reconfigure(errors=_HANDLER)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    spelled = error.object[error.start : error.end].translate(_SPELLED)
    return spelled.encode("ascii", "backslashreplace").decode(), error.end
