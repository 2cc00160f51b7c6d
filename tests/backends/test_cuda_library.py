"""What the cuda backend says where there is no GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pepnet_infer import Engine
from pepnet_infer.backends.cuda import backend as cuda
from pepnet_infer.backends.cuda.backend import VARIABLE, library_path, open_library
from pepnet_infer.backends.cuda.driver import no_gpu_because
from pepnet_infer.errors import BackendError

NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def test_a_package_without_the_library_says_so(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "library_path", lambda: None)
    with pytest.raises(BackendError, match="built without libpepnet_cuda: no nvcc"):
        Engine.load(toy_bundle, backend="native", device="cuda")


@pytest.mark.skipif(library_path() is None, reason="built without nvcc")
@pytest.mark.skipif(no_gpu_because() is None, reason="a GPU answers")
def test_a_machine_without_a_gpu_is_told_in_one_sentence(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(BackendError, match=r"^device: cuda: (there is no|the) NVIDIA driver .*$"):
        Engine.load(toy_bundle, backend="native", device="cuda")
    said = capfd.readouterr()
    assert said.out + said.err == ""


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
def test_a_package_built_beside_nvcc_has_the_library() -> None:
    release = re.search(
        r"release (\d+)\.(\d+)", subprocess.run([NVCC, "--version"], capture_output=True, text=True).stdout
    )  # type: ignore[list-item]
    assert release is not None
    if tuple(map(int, release.groups())) < (12, 4):
        pytest.skip("nvcc is too old")
    path = library_path()
    assert path is not None
    assert not open_library(path).emulated
