"""Facts about the machine a figure was measured on. No host name, no paths: results are published."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from pepnet_infer.bench.harness.report import Table
from pepnet_infer.process import cpu

#: Packages whose version changes a figure.
LIBRARIES = ("numpy", "pyarrow", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "onnxsim")
_BF16_FEATURES = {"avx512bf16", "amx_bf16"}


def facts() -> dict[str, Any]:
    """Returns CPU, its features and caches, what of it this process may use, memory and versions, as JSON values."""
    has, budget = cpu.features(), cpu.cpu_limits()
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


def machine_line(machine: dict[str, Any]) -> str:
    """Returns the machine in one line: model, CPUs, what matters of its instruction sets."""
    cpus, isa = machine["cpus"], machine["isa"]
    wide = next(
        (name for has, name in (("amx_tile", "AMX"), ("avx512f", "AVX-512"), ("avx2", "AVX2")) if has in isa), ""
    )
    bf16 = " with bf16" if {"avx512bf16", "amx_bf16"} & set(isa) else ""
    kind = " (virtual machine)" if machine["virtual_machine"] else ""
    return f"{machine['cpu']}{kind}, {cpus['usable']} CPUs" + (f", {wide}{bf16}" if wide else "")


def machine_table(machine: dict[str, Any]) -> Table:
    """Returns everything known of the machine, limits measured on it included."""
    cpus = machine["cpus"]
    rows = [
        ("CPU", f"{machine['cpu']}, {machine['architecture']}"),
        ("instruction sets", ", ".join(machine["isa"])),
        ("CPUs", f"{cpus['usable']} of {cpus['machine']}: {cpus['why']}"),
        ("virtual machine", "yes" if machine["virtual_machine"] else "no"),
        ("caches", ", ".join(f"{name} {_bytes(size)}" for name, size in machine["caches"].items()) or "not told"),
        ("memory", _bytes(machine["memory_bytes"])),
        ("system", f"{machine['system']}, Python {machine['python']}"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())),
    ]
    limits = machine.get("limits", {})
    for name, peak in limits.get("matrix", {}).items():
        unit = "GOP/s" if name == "int8" else "GFLOP/s"
        rows.append((f"measured: {name} products", f"{peak['gflops']:.0f} {unit} ({peak['by']})"))
    rows += [
        (f"measured: {what}", f"{limits[name]:.0f} GB/s")
        for name, what in (
            ("l3_read_gbps", "last-level cache, read"),
            ("memory_read_gbps", "memory, read"),
            ("memory_copy_gbps", "memory, copy (read and write)"),
        )
        if name in limits
    ]
    rows += [
        (f"measured: read of the {name} weights, again and again", f"{rate:.0f} GB/s")
        for name, rate in limits.get("weights_read_gbps", {}).items()
    ]
    return Table("Machine", [{"what": what, "value": value} for what, value in rows], ("what", "value"))


def _bytes(size: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1024:.3g} KiB"


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
