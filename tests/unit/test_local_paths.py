"""A URL is no path: nothing makes a folder of its scheme's name in the working directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pepnet_infer.bundle import Bundle
from pepnet_infer.cache.embedding_cache import EmbeddingCache
from pepnet_infer.errors import BundleError, PepnetError, StoreError, UpdateError
from pepnet_infer.export.checkpoint import Checkpoint
from pepnet_infer.storage.atomic import new_directory
from pepnet_infer.storage.local_path import refuse_url
from pepnet_infer.sync.directory_log import DirectoryLog


@pytest.mark.parametrize("path", ["s3://bucket/x", "s3:/bucket", "HTTPS://host", "file:///x", "abfss://c@a.net/x"])
def test_urls_are_refused_however_they_are_spelled(path: str) -> None:
    with pytest.raises(StoreError, match=r"expected a local folder, got a URL; copy .*is written \./"):
        refuse_url(Path(path), "a local folder", StoreError)


@pytest.mark.parametrize("path", ["x", "/s3:/x", "./s3://x", "in/dt=s3:/x", "C:/x", "a:b", "", "1s:/x", "."])
def test_paths_are_none(path: str) -> None:
    refuse_url(path, "a local folder")


def test_whatever_writes_refuses_them(
    toy_checkpoint: Checkpoint, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pepnet_infer.export.write_bundle import write_bundle
    from pepnet_infer.store.lmdb import LmdbStore

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
