"""Kill -9 and a full disk in the middle of writing: what can be seen is always whole, old or new."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.errors import BundleError
from pepnet_infer.export.bundle.write_bundle import write_bundle

pytestmark = pytest.mark.crash

#: Loads a checkpoint, then saves it elsewhere and dies at the n-th fsync: after a file, a folder, or the rename.
SAVE = """
import os, signal, sys
from dataclasses import replace
from pepnet_infer.bundle.checkpoint import Checkpoint
source, target, fatal = sys.argv[1], sys.argv[2], int(sys.argv[3])
checkpoint = Checkpoint.load(source)
fsync, calls = os.fsync, 0
def dying(handle):
    global calls
    calls += 1
    if calls == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(handle)
os.fsync = dying
replace(checkpoint, meta={"which": "new"}).save(target, overwrite=True)
print(calls)
"""

#: Writes a bundle and dies when the step named last begins. The graph is the old bundle's: making it again takes 8 s.
EXPORT = """
import importlib, os, signal, sys
import onnx
from pepnet_infer.bundle.checkpoint import Checkpoint
module = importlib.import_module("pepnet_infer.export.bundle.write_bundle")
graph = onnx.load(os.path.join(sys.argv[2], "dense.onnx"))
module.to_onnx = module.simplify = lambda *_: graph
def step(name):
    if name == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
module.write_bundle(Checkpoint.load(sys.argv[1]), sys.argv[2], overwrite=True, on_step=step)
"""

#: Saves with a limit on file sizes, which fails a write in its middle just as a full disk does.
FULL = """
import resource, sys
from pepnet_infer.errors import BundleError
from pepnet_infer.bundle.checkpoint import Checkpoint
checkpoint = Checkpoint.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    checkpoint.save(sys.argv[2], overwrite=True)
except BundleError as error:
    print(error)
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def source(toy_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    toy_checkpoint.save(tmp_path / "source" / "ckpt")
    return tmp_path / "source" / "ckpt"


def which(target: Path) -> object:
    """Which checkpoint is at `target`, whole: old, new, or none."""
    return Checkpoint.load(target).meta.get("which", "old") if target.exists() else None


@pytest.mark.parametrize("old", [False, True])
def test_killed_at_every_fsync(source: Path, tmp_path: Path, toy_checkpoint: Checkpoint, old: bool) -> None:
    folder = tmp_path / "out"
    target = folder / "ckpt"
    before = "old" if old else None
    if old:
        toy_checkpoint.save(target)
    for name in ("out", "count"):
        (tmp_path / name).mkdir(exist_ok=True)  # so that both runs make the same calls
    done = run(SAVE, source, tmp_path / "count" / "ckpt", 0)
    calls = int(done.stdout)
    assert calls > 8, "each table, the weights, the folders and the rename are forced to the disk"
    seen = []
    for fatal in (1, calls // 2, calls - 1, calls):
        assert run(SAVE, source, target, fatal).returncode == -9
        seen.append(which(target))
        assert len([n for n in os.listdir(folder) if n.startswith(".")]) <= 1, "each run removes what the last one left"
    # The last fsync is that of the folder, after the rename: there the new one is in place.
    assert seen == [before, before, before, "new"]
    assert run(SAVE, source, target, 0).returncode == 0
    assert which(target) == "new"
    assert os.listdir(folder) == ["ckpt"]


def test_an_export_killed_before_its_end_leaves_the_old_bundle(
    source: Path, tmp_path: Path, toy_checkpoint: Checkpoint, toy_bundle: Path
) -> None:
    target = tmp_path / "out" / "bundle"
    target.parent.mkdir()
    subprocess.run(["cp", "-r", toy_bundle, target], check=True)
    assert run(EXPORT, source, target, "write the bundle").returncode == -9
    left = sorted(os.listdir(target.parent))
    assert len(left) == 2
    assert left[0].startswith(".bundle.tmp-")
    assert Bundle.open(target).model_version == 7
    with pytest.raises(BundleError, match=r"expected a directory with manifest\.json, got one without"):
        Bundle.open(target.parent / left[0])


@pytest.mark.parametrize("old", [False, True])
def test_a_full_disk_leaves_nothing_half_written(
    source: Path, tmp_path: Path, toy_checkpoint: Checkpoint, old: bool
) -> None:
    target = tmp_path / "out" / "ckpt"
    target.parent.mkdir()
    if old:
        toy_checkpoint.save(target)
    done = run(FULL, source, target, 1000)
    assert done.returncode == 0, done.stderr
    assert f"{target}: cannot write: [Errno 27] File too large" in done.stdout
    assert os.listdir(target.parent) == (["ckpt"] if old else [])
    assert which(target) == ("old" if old else None)


def test_a_folder_that_cannot_be_written_is_a_bundle_error(toy_checkpoint: Checkpoint) -> None:
    with pytest.raises(BundleError, match=r"/proc/nowhere/bundle: cannot write: \[Errno \d+\]"):
        write_bundle(toy_checkpoint, "/proc/nowhere/bundle")
