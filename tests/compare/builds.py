"""A commit of this project, built into a folder that goes before the environment's own packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Build:
    """A build, and the variables with which a Python process imports it."""

    name: str  #: the commit, "+" where files differ from it
    environment: dict[str, str]


def build(commit: str | None, folder: Path, cuda: bool) -> Build:
    """Builds a commit, or the checkout where it is None, below `folder`; what is there of it already is used again.

    cuda: also the CUDA kernels that run on the CPU, which the build's processes then find.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if commit is None:
        source, name = ROOT, _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain") else "")
    else:
        source, name = folder / "source", _git("rev-parse", "--short", commit)
        if not (source / ".git").exists():
            _git("worktree", "prune")
            _git("worktree", "add", "--detach", "--force", str(source), commit)
        _git("-C", str(source), "checkout", "--quiet", "--detach", commit)
    site, objects = folder / "site", folder / "objects"
    shutil.rmtree(site, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, f"--target={site}", f"--config-settings=build-dir={objects}/wheel", str(source)], check=True)
    environment = {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    if cuda:
        tests = objects / "tests"
        flags = ["-DPEPNET_BUILD_PYTHON=OFF", "-DPEPNET_BUILD_TESTS=ON", "-DCMAKE_BUILD_TYPE=Release"]
        _quiet("cmake", "-S", source, "-B", tests, *flags)
        _quiet("cmake", "--build", tests, "--target", "pepnet_cuda_emulated", "--parallel", str(os.cpu_count() or 1))
        environment["PEPNET_CUDA_LIBRARY"] = str(tests / "tests" / "cpp" / "libpepnet_cuda_emulated.so")
    return Build(name, environment)


def _quiet(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()
