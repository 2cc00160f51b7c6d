"""Valgrind emulates a CPU with AVX2 and nothing wider, and sees every read of memory that was never written."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the CPU that valgrind shows is an x86-64")
def test_kernels_on_a_cpu_without_avx512(
    core: Path, call: Call, monkeypatch: pytest.MonkeyPatch, record_property: pytest.RecordProperty
) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed: 0 products on an AVX2-only CPU")
    monkeypatch.delenv("PEPNET_ISA", raising=False)
    ran = call("valgrind", "--quiet", "--error-exitcode=9", core / "tests" / "kernels" / "cpp" / "kernels_test", "ops")
    assert ran.returncode == 0, ran.stdout
    chosen = dict(re.findall(r"^chosen (\w+): (\w+)$", ran.stdout, re.MULTILINE))
    counts = {f"{isa} {precision}": int(n) for isa, precision, n in COUNT.findall(ran.stdout)}
    assert not any(name.startswith(("avx512", "amx")) for name in counts), counts
    if "avx2: left out" in ran.stdout or "avx2 fp32" not in counts:
        pytest.fail(f"expected the avx2 tables to run under valgrind:\n{ran.stdout}")
    assert set(chosen.values()) == {"avx2"}
    assert len(chosen) == 3
    assert all(count > 50 for count in counts.values())
    for name, count in counts.items():
        record_property(f"kernels {name}", count)


COUNT = re.compile(r"^ops (\w+) (\w+) \(.*\): (\d+) products$", re.MULTILINE)
