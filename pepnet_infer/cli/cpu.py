"""`pepnet-infer cpu`: what this machine has, what of it is used, and why."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from typing import Any

from rich.console import Console

from pepnet_infer import _kernels
from pepnet_infer.backends.cuda.driver import no_gpu_because
from pepnet_infer.backends.ort_library import import_onnxruntime
from pepnet_infer.backends.protocol import PRECISIONS
from pepnet_infer.cli.output import AsJson, emit, show_table
from pepnet_infer.errors import BackendError
from pepnet_infer.process.cpu import cpu_limits

#: Distributions that install the module `onnxruntime`.
_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_VARIABLE = "PEPNET_ISA"
_SPLIT = "products of gates and experts run in the precision asked for; mix, towers and the last layer in fp32"


def cpu(as_json: AsJson = False) -> None:
    """Show what this CPU has, which code was chosen and why, and how many threads this process may start."""
    result = describe()
    emit(result, as_json, lambda console: _render(console, result))


def describe() -> dict[str, Any]:
    """Returns what the command prints, as plain JSON values."""
    has, limits, build = _kernels.cpu_info(), cpu_limits(), _kernels.build_info()
    return {
        **has,
        "disabled": [name for name in has["present"] if name not in has["usable"]],
        "threads": {**asdict(limits), "quota_source": limits.quota_source or None, "why": limits.why},
        "store": {
            "path": f"baseline ({build['baseline']})",
            "why": "lookup and pool have one implementation: they wait for memory, not for arithmetic",
            "compiler": build["compiler"],
        },
        "kernels": _native_kernels(),
        "onnxruntime": _onnxruntime(),
        "gpu": no_gpu_because() or "an NVIDIA GPU is there",
    }


def _native_kernels() -> dict[str, Any]:
    """Returns what PEPNET_ISA says, precision → the choice (or the problem with it), and every table there could be."""
    chosen: dict[str, Any] = {}
    for precision in PRECISIONS["native"]:
        try:
            chosen[precision] = dict(_kernels.choose(precision))
        except ValueError as error:  # what PEPNET_ISA asks for is not there: loading the backend raises this
            chosen[precision] = {"problem": str(error)}
    return {_VARIABLE: os.environ.get(_VARIABLE), "chosen": chosen, "tables": [dict(t) for t in _kernels.isas()]}


def _onnxruntime() -> dict[str, Any]:
    """Returns installed (distribution → version), the providers that were compiled in, and what is wrong."""
    installed = {}
    for name in _ONNXRUNTIMES:
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    providers, problem = [], None
    if installed:
        try:
            providers = list(import_onnxruntime().get_available_providers())
        except BackendError as error:
            problem = f"installed, but cannot be imported: {error.__cause__}"
    else:
        problem = "not installed: pip install 'pepnet-infer[cpu]', or 'pepnet-infer[gpu]' for CUDA"
    if providers and len(installed) > 1:
        problem = f"{' and '.join(installed)} are both installed over each other: uninstall both, install one"
    return {"installed": installed, "providers": providers, "problem": problem}


def _render(console: Console, result: dict[str, Any]) -> None:
    runtime, threads, store = result["onnxruntime"], result["threads"], result["store"]
    versions = ", ".join(f"{name} {version}" for name, version in runtime["installed"].items())
    found = f"{versions}; compiled in: {_join(runtime['providers'])}" if versions else ""
    rows = [
        ("architecture", f"{result['architecture']} {result['vendor']}".rstrip()),
        ("usable", _join(result["usable"])),
        ("absent", _join(result["absent"])),
        ("caches", _join(f"{name} {_size(size)}" for name, size in result["caches"].items())),
        ("threads", f"{threads['threads']}: {threads['why']}"),
        ("store", f"{store['path']}: {store['why']}"),
        ("compiler", store["compiler"]),
        ("onnxruntime", "; ".join(filter(None, (found, runtime["problem"])))),
        ("gpu", result["gpu"]),
        (_VARIABLE, result["kernels"][_VARIABLE] or "not set"),
    ]
    if result["disabled"]:
        rows.insert(2, ("disabled", f"{_join(result['disabled'])} (in the CPU, not enabled by the system)"))
    show_table(console, result["model"] or "unknown CPU", (), rows)
    head = ("kernels", "", "instructions, or why not")
    show_table(console, "native kernels", head, _kernel_rows(result["kernels"]), _SPLIT)


def _kernel_rows(kernels: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for precision, choice in kernels["chosen"].items():
        if "problem" in choice:
            yield precision, "", choice["problem"]
        for entry in kernels["tables"]:
            if entry["precision"] == precision:
                taken = entry["isa"] == choice.get("isa")
                text = choice["why"] if taken else entry["why"]
                if entry["usable"]:
                    text = f"{entry['how']}; {text}"
                elif not entry["built"]:
                    text = f"not built: {text}"
                yield f"{precision} {entry['isa']}", "chosen" if taken else "", text


def _size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 and size % (1 << 20) == 0 else f"{size >> 10} KiB"


def _join(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
