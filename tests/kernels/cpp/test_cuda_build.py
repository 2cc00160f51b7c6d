"""What nvcc says of the kernels, where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.slow  # nvcc takes half a minute for each
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_no_kernel_spills(arch: str, tmp_path: Path) -> None:
    source = str(ROOT / "kernels" / "cuda" / "runtime.cu")
    command = [str(NVCC), "-std=c++20", "-O3", f"-arch={arch}", "-cubin", "-Xptxas", "-v", f"-I{ROOT / 'kernels'}"]
    ran = subprocess.run(
        [*command, "-o", str(tmp_path / "x.cubin"), source], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    report = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", ran.stderr)
    assert len(report) >= 21  # of both precisions seven products, and seven others
    assert set(report) == {("0", "0", "0")}
