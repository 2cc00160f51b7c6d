"""A path names a file of this machine. A URL does not: nothing makes a folder of its scheme's name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.errors import BundleError, PepnetError, StoreError, UpdateError
from pepnet_infer.rows.cache.embedding_cache import EmbeddingCache
from pepnet_infer.storage.atomic import new_directory
from pepnet_infer.storage.local_path import check_local
from pepnet_infer.sync.logs.directory import DirectoryLog


@pytest.mark.parametrize(
    "path", ["s3://bucket/x", " s3://x", "s3:/bucket", "HTTPS://host", "file:///x", "abfss://c@a.net/x"]
)
def test_urls_are_refused_however_they_are_spelled(path: str) -> None:
    with pytest.raises(StoreError, match=r"expected a local folder, got a URL; copy .*is written \./"):
        check_local(Path(path), "a local folder", StoreError)


@pytest.mark.parametrize(
    "path", ["x", "/s3:/x", "./s3://x", "in/dt=s3:/x", "C:/x", "a:b", "1s:/x", ".", "./~", "a~/b", Path("x"), "\udcff"]
)
def test_paths_are_none(path: str | Path) -> None:
    check_local(path, "a local folder")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "expected a local folder, got an empty name; the working directory is '.'"),
        ("a\0b", r"'a\\x00b': expected a local folder, got a name that no file can have"),
        ("a\ud800b", "expected a local folder, got a name that no file can have"),
        ("~", r"~: expected a local folder, got '~', which only a shell reads.*is written \./~\)"),
        ("~/x", "expected a local folder, got '~', which only a shell reads"),
        ("~root/x", "expected a local folder, got '~', which only a shell reads"),
        ("x/" * 2100, r"^'x/x/.*.… \(4200 characters\): expected a local folder, got a name longer than 4095 bytes"),
        (b"x", "expected the path of a local folder, as text .*, got b'x'"),
        (None, "expected the path of a local folder, as text .*, got None"),
        (3, "expected the path of a local folder, as text .*, got 3"),
    ],
)
def test_what_names_no_file(path: object, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        check_local(path, "a local folder", StoreError)


def test_whatever_writes_refuses_them(
    toy_checkpoint: Checkpoint, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pepnet_infer.export.bundle.write_bundle import write_bundle
    from pepnet_infer.rows.stores.lmdb import LmdbStore

    monkeypatch.chdir(tmp_path)
    writers: list[tuple[type[PepnetError], Callable[[str], object]]] = [
        (BundleError, lambda url: new_directory(Path(url), "doc.json").__enter__()),
        (BundleError, toy_checkpoint.save),
        (BundleError, lambda url: write_bundle(toy_checkpoint, url)),
        (BundleError, Bundle.open),
        (StoreError, EmbeddingCache(4, "1MiB").save),
        (StoreError, LmdbStore),
        (UpdateError, DirectoryLog),
    ]
    for error, write in writers:
        with pytest.raises(error, match="s3:/"):
            write("s3://bucket/x")
    assert os.listdir() == []
