"""Kill -9 of a process that appends and trims: the log holds whole entries, in order, and goes on."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import run_program
from log_bundles import newest_bundle

from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.sync.logs.directory import DirectoryLog

pytestmark = pytest.mark.crash

#: One process kills many: it forks a publisher for each, which is faster than starting an interpreter for each.
DRIVER = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
from children import ended, fork
import numpy as np
from log_bundles import newest_bundle
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.storage.listing import check_files, describe_files
from pepnet_infer.storage.document import read_document, write_document
from pepnet_infer.sync.delta import DeltaHead, read_head, write_delta
from pepnet_infer.sync.logs.directory import DirectoryLog
from pepnet_infer.sync.logs.transport import Progress

folder, kills, url = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng = random.Random(23)

def open_log(spool="spool"):
    if not url:
        return DirectoryLog(folder / "log", create=True)
    from pepnet_infer.sync.logs.redis import RedisLog
    return RedisLog(url, spool=folder / spool)

bundle = folder / "bundle"
bundle.mkdir()
(bundle / "weights").write_bytes(os.urandom(9 << 20 if url else 300_000))
write_document(bundle / "manifest.json", {"model_version": 1, "files": describe_files(bundle)})

def delta(version):
    count = rng.choice([3, 5000])
    rows = RowBatch.of(np.full((count, 8), version, np.float32), keys=np.arange(count, dtype=np.uint64),
        versions=version, scores=np.zeros(count, np.float32))
    head = DeltaHead(version - 1, version, version, 1e9, "ab" * 32)
    shutil.rmtree(folder / "outbox" / str(version), ignore_errors=True)
    return write_delta(folder / "outbox" / str(version), head, {"user": rows})

def publish(say):
    log = open_log()
    last = log.last_delta()
    version = last[1].model_version if last else 0
    for _ in range(3):
        version += 1
        log.append(delta(version))
        os.write(say, version.to_bytes(8, "little"))  # from here on it must be there
        if version % 3 == 0:
            log.append_bundle(bundle)
        if version % 4 == 0:
            log.trim(3)
            log.acknowledge("f", Progress("", version, 0.0))

steps = 0
def counted(work, fatal):
    def step(*args, **more):
        global steps
        steps += 1
        if steps == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*args, **more)
    return step

def attempt(fatal, delay):
    said, say = os.pipe()
    def work():
        rng.seed(os.getpid())
        for name in ("fsync", "rename", "link", "mkdir", "rmdir", "unlink"):
            setattr(os, name, counted(getattr(os, name), fatal))
        if url:
            from pepnet_infer.sync.logs.redis_server import RedisServer
            RedisServer.ask = counted(RedisServer.ask, fatal)
        publish(say)
    child = fork(work)
    os.close(say)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    code = ended(child)
    heard = os.read(said, 1 << 16)
    os.close(said)
    promised = int.from_bytes(heard[-8:], "little")
    return code < 0, code, promised

def check(log):
    entries = log.read("", most=10_000)
    found = newest_bundle(log)
    for entry in [*entries, *([found] if found else [])]:
        check_files(entry.path, read_document(entry.path, "manifest.json")["files"], "manifest.json", hashes=True)
    heads = [read_head(entry.path) for entry in entries]
    for one, two in zip(heads, heads[1:]):
        assert (two.base_version, two.pass_number) == (one.model_version, one.pass_number + 1), (one, two)
    positions = [entry.position for entry in entries]
    assert positions == sorted(set(positions))
    log.progress()
    return heads[-1].model_version if heads else 0

begin = time.perf_counter()
assert attempt(0, None)[1] == 0
length = time.perf_counter() - begin
reader, newest = open_log("reader"), 3
report = {"killed": 0, "finished": 0, "at_a_step": 0, "versions": 0}
most = 60 if url else 150
while report["killed"] < kills:
    at_a_step = rng.random() < 0.6
    fatal, delay = (rng.randint(1, most), None) if at_a_step else (0, rng.uniform(0, 1.1) * length)
    killed, code, promised = attempt(fatal, delay)
    assert killed or code == 0, code
    now = check(reader)
    assert max(newest, promised) <= now <= newest + 3, (newest, promised, now)
    report["killed" if killed else "finished"] += 1
    report["at_a_step"] += killed and at_a_step
    newest = now
assert attempt(0, None)[1] == 0
log = open_log()
assert check(log) == newest + 3
log.append_bundle(bundle)
log.trim(0)
report["versions"] = newest + 3
assert check(log) == 0
if url:
    from redis import Redis
    client = Redis.from_url(url)
    stays = [key for key in client.scan_iter("{pepnet}:blob:*", count=10_000) if client.pttl(key) == -1]
    assert len(stays) == 3, stays  # of the bundle
    left = [path.name for path in (folder / "reader").rglob("*") if ".tmp-" in path.name]
else:
    left = [path.name for kind in ("deltas", "bundles") for path in (folder / "log" / kind).glob(".*")]
assert left == [], left
print(json.dumps(report))
"""


@pytest.mark.parametrize("kind", ["directory", "redis"])
@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_publisher_leaves_whole_entries(
    kind: str, kills: int, tmp_path: Path, make_redis_server: Callable[..., Any]
) -> None:
    url = make_redis_server().url if kind == "redis" else ""
    report = json.loads(run_program(DRIVER, tmp_path, kills, url, timeout=500))
    print(report)
    assert report["killed"] == kills
    assert report["at_a_step"] >= kills // 4
    assert report["versions"] >= kills // 2


def test_a_full_disk_leaves_no_half_entry(
    tmp_path: Path, toy_bundle: Path, toy_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for the disk's end: writes fail midway, by the kernel's word."""
    from sync_deltas import make

    made, log = make(tmp_path / "delta", toy_checkpoint), DirectoryLog(tmp_path / "log", create=True)

    def no_link(source: str, target: str, *, follow_symlinks: bool = True) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", no_link)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        for work in (lambda: log.append(made), lambda: log.append_bundle(toy_bundle)):
            with pytest.raises(UpdateError, match="cannot be used") as error:
                work()
            assert error.value.reason == "transport"
        with pytest.raises(BundleError, match="cannot write"):
            make(tmp_path / "other", toy_checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert log.read("") == []
    assert newest_bundle(log) is None
    assert not (tmp_path / "other").exists()
    assert list((tmp_path / "log").rglob(".*")) == []
    position = log.append(made)
    assert [entry.position for entry in log.read("")] == [position]
