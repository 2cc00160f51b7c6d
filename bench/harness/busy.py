"""How busy other processes kept the machine: the noise under a measurement."""

from __future__ import annotations

import os
import time
from pathlib import Path

#: Share of the CPUs that others may use without spoiling a measurement.
QUIET = 0.05


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
