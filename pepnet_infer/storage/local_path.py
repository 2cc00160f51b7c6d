"""Paths are local: a URL of an object store would make a folder `s3:` on the disk."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from pepnet_infer.errors import PepnetError

#: A scheme of two letters or more. `pathlib` makes one slash of two.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def refuse_url(path: str | os.PathLike[str], wanted: str, error: Callable[[str], PepnetError] = PepnetError) -> None:
    """Raises `error`, which says that `wanted` (such as "a local folder") was expected, for a path as s3://bucket/x.

    A local path of that form can still be given, as ./s3:/bucket/x.
    """
    text = os.fspath(path)
    if _URL.match(text):
        raise error(
            f"{text}: expected {wanted}, got a URL; copy the files to or from a local disk, or mount their store"
            f" (a local path of that name is written ./{text})"
        )
