"""The machine a figure was measured on, and how busy others kept it. No host name, no paths: results are published."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pepnet_infer import _kernels
from pepnet_infer.process.cpu import cpu_limits

#: Packages whose version changes a figure.
LIBRARIES = ("numpy", "pyarrow", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "onnxsim")
_BF16_FEATURES = {"avx512bf16", "amx_bf16"}
_WIDEST = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}
#: Share of the CPUs that others may use without spoiling a measurement.
QUIET = 0.05


def facts() -> dict[str, Any]:
    """Returns CPU, its features and caches, what of it this process may use, memory and versions, as JSON values."""
    has, budget = _kernels.cpu_info(), cpu_limits()
    installed = {part.name for part in metadata.distributions()}
    return {
        "cpu": has["model"],
        "architecture": has["architecture"],
        "isa": has["usable"],
        "caches": has["caches"],
        "cpus": {"machine": budget.machine, "usable": budget.affinity, "quota": budget.quota, "why": budget.why},
        "virtual_machine": " hypervisor" in Path("/proc/cpuinfo").read_text(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES if name in installed},
    }


def last_level_cache() -> int:
    """Returns the size of the last-level cache in bytes, 32 MiB where the system does not say."""
    return max(_kernels.cpu_info()["caches"].values(), default=32 << 20)


def available_bytes() -> int:
    """Returns the memory in bytes that programs can still get without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) << 10


def machine_line(machine: Mapping[str, Any]) -> str:
    """Returns the machine in one line: model, CPUs, what matters of its instruction sets."""
    wide = [name for feature, name in _WIDEST.items() if feature in machine["isa"]][:1]
    bf16 = " with bf16" if wide and not _BF16_FEATURES.isdisjoint(machine["isa"]) else ""
    kind = " (virtual machine)" if machine["virtual_machine"] else ""
    return ", ".join([f"{machine['cpu']}{kind}", f"{machine['cpus']['usable']} CPUs", *wide]) + bf16


def machine_rows(machine: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns everything known of the machine, limits measured on it included: what, and its value."""
    cpus, limits = machine["cpus"], machine.get("limits", {})
    caches = [f"{name} {size / (1 << 20):.3g} MiB" for name, size in machine["caches"].items()]
    rows = [
        ("CPU", f"{machine['cpu']}, {machine['architecture']}"),
        ("instruction sets", ", ".join(machine["isa"])),
        ("CPUs", f"{cpus['usable']} of {cpus['machine']}: {cpus['why']}"),
        ("virtual machine", "yes" if machine["virtual_machine"] else "no"),
        ("caches", ", ".join(caches) or "not known"),
        ("memory", f"{machine['memory_bytes'] / (1 << 30):.3g} GiB"),
        ("system", f"{machine['system']}, Python {machine['python']}"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())),
    ]
    for precision, (peak, by) in limits.get("matrix", {}).items():
        unit = "GOP/s" if precision == "int8" else "GFLOP/s"
        rows.append((f"measured: {precision} products", f"{peak:.0f} {unit} ({by})"))
    for what, rate in limits.get("read_gbps", {}).items():
        rows.append((f"measured: reads of {what}, again and again", f"{rate:.0f} GB/s"))
    return [{"what": what, "value": value} for what, value in rows]


class BusyMeter:
    """How busy everyone else kept the CPUs since it was made.

    Counts the time of all CPUs of the machine in /proc/stat, steal by other guests included, less this process's own.
    """

    def __init__(self) -> None:
        self._start = cpu_seconds()

    def others(self) -> float:
        """Returns the share of the machine's CPU time spent by others, 0 to 1."""
        now = cpu_seconds()
        total, busy, own = (b - a for a, b in zip(self._start, now, strict=True))
        return min(1.0, max(0.0, (busy - own) / total)) if total > 0 else 0.0


def noise(busiest: float, unsettled: int = 0) -> str:
    """Returns a sentence that says how quiet the machine was, for the reader to judge the figures by."""
    turns = f", {unsettled} turns began before other pools had gone to sleep" if unsettled else ""
    warning = "" if busiest <= QUIET else ": too much for figures that are to be relied on"
    return f"other processes used {busiest:.0%} of the CPUs at most{turns}{warning}"


def cpu_seconds() -> tuple[float, float, float]:
    """Returns (total, busy, own) CPU time in seconds."""
    line = Path("/proc/stat").read_text().split("\n", 1)[0]  # cpu user nice system idle iowait irq softirq steal ...
    spent = [int(x) / os.sysconf("SC_CLK_TCK") for x in line.split()[1:9]]
    return sum(spent), sum(spent) - spent[3] - spent[4], time.process_time()
