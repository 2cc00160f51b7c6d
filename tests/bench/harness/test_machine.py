"""Facts about the machine, and how busy others keep it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pepnet_infer.bench.harness import machine


def test_machine_facts_hold_no_name_of_the_machine() -> None:
    facts = machine.facts()
    text = json.dumps(facts)
    assert platform.node() not in text
    assert os.getcwd() not in text
    assert facts["cpus"]["usable"] == len(os.sched_getaffinity(0))
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    assert facts["memory_bytes"] == 1024 * int(total.split()[1])
    assert facts["libraries"]["numpy"] == np.__version__


def test_whole_numbers_are_counted_as_operations() -> None:
    limits = {"matrix": {"fp32": (230.0, "a"), "int8": (890.0, "b")}}
    said = {row["what"]: row["value"] for row in machine.machine_rows(machine.facts() | {"limits": limits})}
    assert said["measured: fp32 products"] == "230 GFLOP/s (a)"
    assert said["measured: int8 products"] == "890 GOP/s (b)"


def test_available_memory_is_some_of_it() -> None:
    assert 0 < machine.available_bytes() < machine.facts()["memory_bytes"]


def test_others_are_told_apart_from_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(100.0, 50.0, 20.0), (200.0, 120.0, 60.0), (200.0, 50.0, 60.0), (100.0, 50.0, 20.0)])
    monkeypatch.setattr(machine, "cpu_seconds", lambda: next(readings))
    meter = machine.BusyMeter()
    assert meter.others() == pytest.approx(0.3)  # 70 of 100 s busy, 40 of them ours
    assert meter.others() == 0.0  # ticks may lag behind our own clock
    assert meter.others() == 0.0  # no time has passed


def test_another_process_is_seen_at_work() -> None:
    meter = machine.BusyMeter()
    subprocess.run([sys.executable, "-c", "import time\nt=time.time()+.7\nwhile time.time()<t: pass"], check=True)
    assert meter.others() > 0.4 / (os.cpu_count() or 1)


def test_noise_is_told() -> None:
    assert machine.noise(0.37) == (
        "other processes used 37% of the CPUs at most: too much for figures that are to be relied on"
    )
    assert machine.noise(0.02) == "other processes used 2% of the CPUs at most"
    assert machine.noise(0.02, 3).endswith("at most, 3 turns began before other pools had gone to sleep")
