"""A commit of this project, built into a folder that goes before the environment's own packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from compare.emulated_amx import emulate_amx

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Build:
    """A build, and the variables with which a Python process imports it."""

    name: str  #: the commit, "+" where files differ from it
    source: Path
    environment: dict[str, str]
    amx: str | None = None  #: PYTHONPATH of the same commit with emulated AMX


def build(commit: str | None, folder: Path, *, cuda: bool = True, amx: bool = True) -> Build:
    """Builds a commit, or the checkout where it is None, below `folder`; what is there of it already is used again.

    cuda: also the CUDA kernels that run on the CPU, which the build's processes then find.
    amx: also an extension with emulated AMX, in a second folder of packages.
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
    objects = folder / "objects"
    environment = {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(_install(source, folder / "site", objects / "wheel"))}
    if cuda:
        tests = objects / "tests"
        flags = ["-DPEPNET_BUILD_PYTHON=OFF", "-DPEPNET_BUILD_TESTS=ON", "-DCMAKE_BUILD_TYPE=Release"]
        _quiet("cmake", "-S", source, "-B", tests, *flags)
        _quiet("cmake", "--build", tests, "--target", "pepnet_cuda_emulated", "--parallel", str(os.cpu_count() or 1))
        (library,) = tests.rglob("libpepnet_cuda_emulated.so")
        environment["PEPNET_CUDA_LIBRARY"] = str(library)
    if not amx:
        return Build(name, source, environment)
    copy = emulate_amx(source, folder / "amx-source")
    return Build(name, source, environment, str(_install(copy, folder / "amx-site", objects / "amx-wheel")))


def _install(source: Path, site: Path, objects: Path) -> Path:
    shutil.rmtree(site, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, f"--target={site}", f"--config-settings=build-dir={objects}", str(source)], check=True)
    return site


def _quiet(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()
