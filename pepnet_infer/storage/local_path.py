"""The check that a path is local: a URL of an object store would create a folder `s3:` on the disk."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from pepnet_infer.errors import PepnetError
from pepnet_infer.quoting import quote

#: A scheme of two letters or more, also behind a blank. `pathlib` makes one slash of two.
_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:/")
_MOST_BYTES = 4095  # of a path, on Linux
#: What a shell leaves as it is in --out=~/x.
_HOME = re.compile(r"~[^/]*(/|$)")


def check_local(path: object, wanted: str, error: Callable[..., PepnetError] = PepnetError) -> None:
    """Raises `error` for what names no file or folder of this machine; `wanted` says what, such as "a local folder".

    That is anything but text and path-like objects of text, an empty name, a name that no file system takes, a URL as
    s3://bucket/x, and `~` for the home folder, which only a shell reads. A local path of the last two forms can still
    be given, as ./s3:/bucket/x.
    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise error(f"expected the path of {wanted}, as text or a path-like object of text, got {quote(path)}")
    if not text:  # a variable that a shell script did not set: `Path` takes it as the working directory
        raise error(f"expected {wanted}, got an empty name; the working directory is '.'")
    try:
        size = -1 if "\0" in text else len(os.fsencode(text))
    except UnicodeEncodeError:
        size = -1
    if size < 0:
        raise error(f"expected {wanted}, got a name that no file can have", within=quote(text))
    if size > _MOST_BYTES:
        raise error(f"expected {wanted}, got a name longer than {_MOST_BYTES} bytes", within=quote(text))
    local = f"(a local path of that name is written ./{text})"
    if _URL.match(text):
        fix = "copy the files to or from a local disk, or mount their store"
        raise error(f"expected {wanted}, got a URL; {fix} {local}", within=text)
    if _HOME.match(text):
        raise error(f"expected {wanted}, got '~', which only a shell reads, in a word of its own {local}", within=text)
