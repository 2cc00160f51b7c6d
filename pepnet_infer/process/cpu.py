"""Limits on how many CPUs this process may use."""

from __future__ import annotations

from dataclasses import dataclass

from pepnet_infer import _kernels

#: End of the errors about threads that cannot be started.
NO_THREAD = "this process can have no more: raise its limit (ulimit -u, ulimit -v, the cgroup's pids.max)"


@dataclass(frozen=True)
class CpuLimits:
    """Limits on the CPUs that this process may keep busy."""

    machine: int  # CPUs online
    affinity: int  # CPUs in the process's cpuset
    quota: float | None  # CPUs' worth of time of the tightest cgroup above this process; None is unlimited
    quota_source: str  # the file that says so
    threads: int  # what to start: the cpuset, or the quota rounded down where that is less, and at least 1

    @property
    def why(self) -> str:
        """Says in words which of the limits decided."""
        if self.quota is not None and self.quota < self.affinity:
            return f"cgroup quota of {self.quota:g} CPUs, rounded down to at least 1 ({self.quota_source})"
        if self.affinity < self.machine:
            return f"{self.affinity} of the machine's {self.machine} CPUs are in this process's cpuset"
        return f"all {self.machine} CPUs of the machine"


def cpu_limits(root: str = "") -> CpuLimits:
    """Returns the limits as they are now. `root` is put before /proc and /sys paths."""
    return CpuLimits(**_kernels.cpu_budget(root))


def available_threads() -> int:
    """Returns how many threads to start: never more than the cpuset or the cgroup's CPU quota allows."""
    return cpu_limits().threads
