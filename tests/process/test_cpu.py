from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pepnet_infer import _kernels
from pepnet_infer.cli import cpu as cli
from pepnet_infer.process.cpu import available_threads, cpu_limits

CPU = _kernels.cpu_info()
CPUS = len(os.sched_getaffinity(0))
#: Our name → the kernel's in /proc/cpuinfo.
FLAGS = {
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avx512dq": "avx512dq",
    "avx512vnni": "avx512_vnni",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "amx_tile": "amx_tile",
    "amx_bf16": "amx_bf16",
    "amx_int8": "amx_int8",
}

x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernel's flags are named so on x86-64 only")


def cpuinfo(key: str) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == key), "")


@x86
def test_features_are_those_the_kernel_lists() -> None:
    listed = set(cpuinfo("flags").split())
    assert set(CPU["usable"]) == {ours for ours, theirs in FLAGS.items() if theirs in listed}
    assert set(CPU["usable"]) <= set(CPU["present"])
    assert set(CPU["present"]) | set(CPU["absent"]) == set(FLAGS)


@x86
def test_the_cpu_is_named_as_the_kernel_names_it() -> None:
    assert CPU["architecture"] == "x86_64"
    assert CPU["vendor"] == cpuinfo("vendor_id")
    assert CPU["model"] == cpuinfo("model name")


@x86
def test_the_cpu_says_itself_what_it_is() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))  # no file opens, as where /proc and /sys are hidden
    try:
        blind = _kernels.cpu_info()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert blind == CPU | {"caches": {}}


def test_caches_are_those_of_the_kernel() -> None:
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    expected = {}
    for index in folder.glob("index*"):
        level, kind = (index / "level").read_text().strip(), (index / "type").read_text().strip().lower()
        size = (index / "size").read_text().strip()
        expected[f"L{level} {kind}"] = int(size[:-1]) << {"K": 10, "M": 20}[size[-1]]
    assert CPU["caches"] == expected


def test_the_cpuset_bounds_the_threads() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from pepnet_infer.process.cpu import cpu_limits; b = cpu_limits(); print(b.threads, b.affinity, b.why)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    threads, affinity, *why = ran.stdout.split()
    assert (threads, affinity) == ("1", "1")
    if (os.cpu_count() or 1) > 1 and "quota" not in ran.stdout:
        assert "cpuset" in why


def cgroups(root: Path, mounts: str, groups: str, files: dict[str, str]) -> str:
    """Lays out what /proc and /sys would say under `root`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(mounts)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "33 31 0:30 /docker/4f /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
    "32 31 0:29 /docker/4f /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
)


@pytest.mark.parametrize(
    ("limit", "quota", "threads"),
    [
        ("max 100000", None, CPUS),
        ("50000 100000", 0.5, 1),
        ("100000 100000", 1.0, 1),
        ("250000 100000", 2.5, min(2, CPUS)),
        ("6400000 100000", 64.0, min(64, CPUS)),
        ("1000 0", None, CPUS),
        ("", None, CPUS),
        ("garbage", None, CPUS),
    ],
)
def test_a_quota_of_version_2_is_rounded_down(limit: str, quota: float | None, threads: int, tmp_path: Path) -> None:
    root = cgroups(tmp_path, V2, "0::/pod\n", {"/sys/fs/cgroup/pod/cpu.max": limit})
    found = cpu_limits(root)
    assert found.quota == quota
    assert found.threads == threads
    assert found.quota_source == (f"{root}/sys/fs/cgroup/pod/cpu.max" if quota else "")


def test_the_tightest_group_above_the_process_counts(tmp_path: Path) -> None:
    files = {
        "/sys/fs/cgroup/cpu.max": "max 100000",
        "/sys/fs/cgroup/a/cpu.max": "150000 100000",
        "/sys/fs/cgroup/a/b/cpu.max": "400000 100000",
        "/sys/fs/cgroup/other/cpu.max": "10000 100000",
    }
    found = cpu_limits(cgroups(tmp_path, V2, "0::/a/b\n", files))
    assert found.quota == 1.5
    assert found.threads == 1
    if CPUS > 1:
        assert found.why.startswith("cgroup quota of 1.5 CPUs, rounded down")


def test_a_quota_of_version_1_is_found_where_the_container_mounts_it(tmp_path: Path) -> None:
    folder = "/sys/fs/cgroup/cpu,cpuacct"
    files = {
        f"{folder}/cpu.cfs_quota_us": "300000",
        f"{folder}/cpu.cfs_period_us": "100000",
        f"{folder}/inner/cpu.cfs_quota_us": "-1",
        f"{folder}/inner/cpu.cfs_period_us": "100000",
        "/sys/fs/cgroup/cpuset/cpu.cfs_quota_us": "1000",
        "/sys/fs/cgroup/cpuset/cpu.cfs_period_us": "100000",
    }
    groups = "5:cpuset:/docker/4f\n4:cpu,cpuacct:/docker/4f/inner\n0::/\n"
    found = cpu_limits(cgroups(tmp_path, V1, groups, files))
    assert found.quota == 3.0
    assert found.quota_source.endswith(f"{folder}/cpu.cfs_quota_us")


def test_this_process_has_at_least_one_thread() -> None:
    assert 1 <= available_threads() <= CPUS
    assert available_threads() == cpu_limits().threads


def run(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(cli.cpu)
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_prints_json_and_a_table() -> None:
    result = json.loads(run("--json"))
    assert result["model"] == CPU["model"]
    assert result["usable"] == CPU["usable"]
    assert result["threads"]["threads"] == available_threads()
    assert result["store"]["path"] == f"baseline ({_kernels.build_info()['baseline']})"
    assert "wait for memory" in result["store"]["why"]
    table = run()
    for words in (CPU["model"], f"{available_threads()}: ", "baseline (", "onnxruntime"):
        assert words in table


def test_an_extension_for_every_x86_64_takes_nothing_wider_for_granted() -> None:
    assert _kernels.build_info()["baseline"] in ("sse2", "neon", "none")


def installed(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)


def test_onnxruntime_is_said_to_be_missing_broken_or_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, {})
    runtime = json.loads(run("--json"))["onnxruntime"]
    assert runtime["installed"] == {}
    assert runtime["problem"].startswith("not installed: pip install 'pepnet-infer[cpu]'")
    assert "not installed" in run()

    installed(monkeypatch, {"onnxruntime": "1.2", "onnxruntime-gpu": "1.3"})
    runtime = json.loads(run("--json"))["onnxruntime"]
    assert runtime["installed"] == {"onnxruntime": "1.2", "onnxruntime-gpu": "1.3"}

    installed(monkeypatch, {"onnxruntime": "1.2"})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    runtime = json.loads(run("--json"))["onnxruntime"]
    assert runtime["problem"].startswith("installed, but cannot be imported: ")
    assert runtime["providers"] == []
