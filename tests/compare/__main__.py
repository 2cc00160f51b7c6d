"""Builds an earlier commit and the checkout, and compares what both score, bit by bit.

python -m compare COMMIT     exit code 1 when a score differs, or when the newer build cannot read what the older wrote
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from compare.builds import Build, build

WORKERS = Path(__file__).parent


def main() -> int:
    """Returns 1 when the builds differ."""
    parser = argparse.ArgumentParser(prog="compare", description=__doc__.partition("\n")[0])
    parser.add_argument("commit", help="the older build")
    parser.add_argument("--out", type=Path, default=Path("build/compare"), help="where builds and results are kept")
    parser.add_argument("--without-cuda", action="store_true", help="leave out the emulated CUDA library")
    parser.add_argument("--without-amx", action="store_true", help="leave out the emulated AMX kernels")
    options = parser.parse_args()
    out = options.out.resolve()
    parts = {"cuda": not options.without_cuda, "amx": not options.without_amx}
    old = build(options.commit, out / "old", **parts)
    new = build(None, out / "new", **parts)
    print(f"old {old.name}, new {new.name}", flush=True)
    files = out / "files"
    _run(old, "write_files.py", files, old.source)
    for one, folder in ((old, out / "scores-old"), (new, out / "scores-new")):
        shutil.rmtree(folder, ignore_errors=True)
        _run(one, "write_scores.py", files, folder)
        if one.amx is not None:
            _run(
                replace(one, environment=one.environment | {"PYTHONPATH": one.amx}),
                "write_scores.py",
                files,
                folder,
                "amx",
            )
    _run(new, "read_files.py", files)
    differing = compare(out / "scores-old", out / "scores-new")
    for line in differing:
        print(line)
    return 1 if differing else 0


def compare(old: Path, new: Path) -> list[str]:
    """Returns what differs between two folders of arrays, a line each; none differ when there is no line."""
    found, same = [], 0
    names = sorted({path.name for path in (*old.glob("*.npz"), *new.glob("*.npz"))})
    if not names:
        return [f"{old}: expected scores, got none"]
    for name in names:
        if not (old / name).is_file() or not (new / name).is_file():
            found.append(f"{name}: only one build scored it")
            continue
        with np.load(old / name) as before, np.load(new / name) as after:
            for key in sorted({*before.files, *after.files}):
                if key not in before.files or key not in after.files:
                    found.append(f"{name}: {key}: only the {'old' if key in before.files else 'new'} build has it")
                elif before[key].dtype != after[key].dtype or before[key].shape != after[key].shape:
                    found.append(
                        f"{name}: {key}: {before[key].dtype}{before[key].shape} is not "
                        f"{after[key].dtype}{after[key].shape}"
                    )
                elif before[key].tobytes() != after[key].tobytes():
                    found.append(f"{name}: {key}: {_difference(before[key], after[key])}")
                else:
                    same += 1
        print(f"{name}: {len(before.files)} arrays", flush=True)
    print(f"{same} arrays are the same, {len(found)} differ", flush=True)
    return found


def _difference(before: np.ndarray, after: np.ndarray) -> str:
    if before.dtype.kind != "f":
        return f"{before.tolist()!r:.60} is not {after.tolist()!r:.60}"
    unequal = before.view(f"V{before.itemsize}") != after.view(f"V{after.itemsize}")
    return f"{unequal.sum()} of {unequal.size} values differ, by {np.nanmax(np.abs(before - after)):.3g} at most"


def _run(one: Build, script: str, *arguments: str | Path) -> None:
    print(f"{one.name}: {script}", flush=True)
    subprocess.run([sys.executable, WORKERS / script, *arguments], env={**os.environ, **one.environment}, check=True)


if __name__ == "__main__":
    sys.exit(main())
