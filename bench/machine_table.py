"""The facts and limits of a machine, as a line and as a table."""

from __future__ import annotations

from typing import Any

from pepnet_infer.bench.report import Table


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
    limits = machine.get("limits")
    if limits:
        for name, peak in limits["matrix"].items():
            unit = "GOP/s" if name == "int8" else "GFLOP/s"
            rows.append((f"measured: {name} products", f"{peak['gflops']:.0f} {unit} ({peak['by']})"))
        rows += [
            ("measured: last-level cache, read", f"{limits['l3_read_gbps']:.0f} GB/s"),
            ("measured: memory, read", f"{limits['memory_read_gbps']:.0f} GB/s"),
            ("measured: memory, copy (read and write)", f"{limits['memory_copy_gbps']:.0f} GB/s"),
        ]
        rows += [
            (f"measured: read of the {name} weights, again and again", f"{rate:.0f} GB/s")
            for name, rate in limits["weights_read_gbps"].items()
        ]
    return Table("Machine", ("what", "value"), rows, frozenset({"what", "value"}))


def _bytes(size: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1024:.3g} KiB"
