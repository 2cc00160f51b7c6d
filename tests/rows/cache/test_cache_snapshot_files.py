"""The file of a snapshot: replaced whole, by savers that do not mix, without what dead ones left."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from snapshots import content, ids, make, rows_of

from pepnet_infer.errors import StoreError
from pepnet_infer.rows.cache import snapshot, snapshot_file


def test_what_was_there_is_replaced_and_no_other_file_is(tmp_path: Path) -> None:
    target = tmp_path / "s"
    cache = make()
    cache.write(ids(1), rows_of(ids(1)))
    snapshot.save(cache, target)
    cache.write(ids(2), rows_of(ids(2)))
    snapshot.save(cache, target)
    assert snapshot.load(make(), target).rows == 2
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    target.write_bytes(b"somebody's thesis")
    with pytest.raises(StoreError, match=r"s: expected a snapshot or nothing there, got another file"):
        snapshot.save(cache, target)
    assert target.read_bytes() == b"somebody's thesis"
    (tmp_path / "link").symlink_to(target)
    for name, said in (("link", "Too many levels of symbolic links"), (".", "Is a directory|not")):
        with pytest.raises(StoreError, match=said):
            snapshot.save(cache, tmp_path / name)
    with pytest.raises(StoreError, match=r"cannot write: .*No such file or directory"):
        snapshot.save(cache, tmp_path / "nowhere" / "s")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "s"]


def test_a_temporary_file_of_a_dead_writer_goes_and_a_living_one_s_stays(tmp_path: Path) -> None:
    dead = tmp_path / ".s.tmp-01234567"
    dead.write_bytes(b"PEPCACHE, but no more")
    with snapshot_file.new_snapshot(tmp_path / "s") as living:
        assert not dead.exists()
        snapshot.save(make(), tmp_path / "s")
        assert len(list(tmp_path.glob(".s.tmp-*"))) == 1
        writer = snapshot_file.Writer(living, snapshot_file.Header(3, "int8", "lru", 0.0))
        writer.end(0)
    with open(tmp_path / "s", "rb") as file:
        assert snapshot_file.Reader(tmp_path / "s", file).header.dim == 3
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_savers_at_once_do_not_mix(tmp_path: Path) -> None:
    caches = []
    for version in range(3):
        keys = np.arange(500, dtype=np.uint64)
        caches.append(make())
        caches[-1].write(keys, rows_of(keys, version), versions=np.full(500, version, np.uint64))
    failures: list[BaseException] = []

    def work(cache: Any) -> None:
        try:
            for _ in range(10):
                snapshot.save(cache, tmp_path / "s")
                other = make()
                assert snapshot.load(other, tmp_path / "s").rows == 500
                versions = {entry[4] for entry in content(other).values()}
                assert len(versions) == 1, versions
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(cache,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
