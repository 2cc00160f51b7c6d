"""Facts about the machine a figure was measured on. No host name, no paths: results are published."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from pepnet_infer.process import cpu

#: Packages whose version changes a figure.
LIBRARIES = ("numpy", "pyarrow", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "onnxsim")
_BF16_FEATURES = {"avx512bf16", "amx_bf16"}


def facts() -> dict[str, Any]:
    """Returns CPU, its features and caches, what of it this process may use, memory and versions, as JSON values."""
    has, budget = cpu.features(), cpu.budget()
    return {
        "cpu": has.model,
        "architecture": has.architecture,
        "isa": list(has.usable),
        "caches": dict(has.caches),
        "cpus": {"machine": budget.machine, "usable": budget.affinity, "quota": budget.quota, "why": budget.why},
        "virtual_machine": "hypervisor" in _cpu_flags(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "libraries": {name: version for name in LIBRARIES if (version := _version(name))},
    }


def last_level_cache() -> int:
    """Returns the size of the last-level cache in bytes, 32 MiB where the system does not say."""
    return max(cpu.features().caches.values(), default=32 << 20)


def memory_bytes() -> int:
    """Returns the machine's memory in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo: expected a line MemTotal, got none")


def bf16_note() -> dict[str, Any]:
    """Returns the setting that says whether bfloat16 products run on instructions made for them."""
    native = not _BF16_FEATURES.isdisjoint(cpu.features().usable)
    return {"bf16": "native" if native else "emulated: this CPU has no bf16 products"}


class BusyMeter:
    """How busy everyone else kept the CPUs since it was made: the noise under a measurement.

    Counts the time of all CPUs of the machine in /proc/stat, steal by other guests included, less this process's own.
    """

    def __init__(self) -> None:
        self._start = _cpu_seconds()

    def others(self) -> float:
        """Returns the share of the machine's CPU time spent by others, 0 to 1."""
        now = _cpu_seconds()
        total, busy, own = (b - a for a, b in zip(self._start, now, strict=True))
        return min(1.0, max(0.0, (busy - own) / total)) if total > 0 else 0.0


def _cpu_seconds() -> tuple[float, float, float]:
    """Returns (total, busy, own) CPU time in seconds."""
    line = Path("/proc/stat").read_text().split("\n", 1)[0]  # cpu user nice system idle iowait irq softirq steal ...
    spent = [int(x) / os.sysconf("SC_CLK_TCK") for x in line.split()[1:9]]
    return sum(spent), sum(spent) - spent[3] - spent[4], time.process_time()


def _cpu_flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split(":", 1)[1].split())
    return set()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
