"""kill -9 at every kind of moment: what is visible is whole, and the same command ends with the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from children import run_program

pytestmark = pytest.mark.crash

# One process that imports everything and forks a child for every run; a child loads the engine itself, because its
# threads would not survive a fork. Argument 1: the folder, with `bundle` and `in`. Prints a report as JSON.
DRIVER = r"""
import io, json, os, random, shutil, signal, sys, time
from pathlib import Path
import children
import onnxruntime, pepnet_infer.backends.ort, pyarrow.parquet as pq
import pytest

from pepnet_infer import Engine, score_parquet
from pepnet_infer.parquet import sink

root, rng = Path(sys.argv[1]), random.Random(5)
sink.GROUP_ROWS = 256

class Mortal:
    '''Dies at the `nth` moment of a kind, and says of which kind it was.'''
    def __init__(self, kind, nth, log):
        self.kind, self.left, self.log = kind, nth, log
    def is_due(self, kind):
        self.left -= kind == self.kind
        return kind == self.kind and self.left == 0
    def __call__(self, kind):
        if self.is_due(kind):
            os.write(self.log, kind.encode())
            os.kill(os.getpid(), signal.SIGKILL)

def child(out, kind, nth, log):
    mortal = Mortal(kind, nth, log)

    class Raw(sink.WholeWrites):
        def write(self, data):
            if mortal.is_due("write"):  # half of it reaches the file
                io.FileIO.write(self, bytes(data)[: len(data) // 2])
                mortal.left = 1
                mortal("write")
            return super().write(data)

    def wrapped(module, name):
        work = getattr(module, name)
        def call(*args, **options):
            mortal("before " + name)
            result = work(*args, **options)
            mortal("after " + name)
            return result
        setattr(module, name, call)

    sink.WholeWrites = Raw
    for name in ("fsync", "replace", "mkdir"):
        wrapped(os, name)
    with Engine.load(root / "bundle", check="sizes", threads=1) as engine:
        score_parquet(engine, root / "in", out, batch_rows=100, progress=lambda *_: mortal("batch"))

def run(out, kind="", nth=0, after=None):
    '''Returns (whether the run ended by itself, what it said last).'''
    ours, theirs = os.pipe()
    def work():
        try:
            child(out, kind, nth, theirs)
        except BaseException as error:
            os.write(theirs, repr(error).encode())
            raise
    pid = children.fork(work)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    code = children.ended(pid)
    os.close(theirs)
    said = os.read(ours, 4000).decode()
    os.close(ours)
    return code >= 0, said

def files(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}

begin = time.monotonic()
ended, said = run(root / "reference")
assert ended and not said, said
length, reference = time.monotonic() - begin, files(root / "reference")
report = {"kills": {}, "finished": 0, "problems": []}
out = root / "out"

def check(ended, said):
    found = files(out)
    for name, content in found.items():
        if name in reference and reference[name] != content:
            report["problems"].append(f"{name} is not whole after {said!r}")
        if name not in reference and not (Path(name).name.startswith(".") and name.endswith(".partial")):
            report["problems"].append(f"{name} is no name for an output")
    if ended:
        report["finished"] += 1
        if found != reference:
            report["problems"].append(f"after {said!r}: {sorted(found)} is not {sorted(reference)}")
        shutil.rmtree(out)
    else:
        report["kills"][said or "clock"] = report["kills"].get(said or "clock", 0) + 1

calls = ("fsync", "replace", "mkdir")
kinds = ["batch", "write"] + [f"{when} {name}" for when in ("before", "after") for name in calls]
for kind in rng.sample(kinds * 2, len(kinds) * 2):
    check(*run(out, kind, rng.randint(1, 3)))
    if rng.random() < 0.2:
        check(*run(out))
# By the clock: how long a run takes says the machine, not the plan, so a run that came to its end shortens the span.
for _ in range(40):
    ended, said = run(out, after=rng.uniform(0.0, 1.2) * length)
    length *= 0.7 if ended else 1.0
    check(ended, said)
    if report["kills"].get("clock", 0) >= 3:
        break
if out.exists():
    check(*run(out))
print(json.dumps(report))
"""


def test_a_killed_run_is_resumed_to_the_same_bytes(
    toy_bundle: Path, toy_table: Callable[..., pa.Table], tmp_path: Path
) -> None:
    (tmp_path / "bundle").symlink_to(toy_bundle)
    for i, name in enumerate(("a", "b/c", "b/d")):
        path = tmp_path / "in" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(toy_table(900 + i, i), path)
    report = json.loads(run_program(DRIVER, tmp_path, timeout=300))
    assert report["problems"] == []
    kills = report["kills"]
    assert {"batch", "write", "before fsync", "after fsync", "before replace", "after replace"} <= set(kills), kills
    assert kills["clock"] >= 3, kills
    assert report["finished"] >= 3
