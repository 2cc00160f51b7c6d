"""Workers that try mutants. When one dies, hangs or finds something, that is noted and the next mutant is tried."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fuzz.target import OUTCOMES
from fuzz.worker import BEGAN, COUNTS, DONE, INDEX, MEMORY, STARTING, STATUS

_POLL_S = 0.05
_STARTING_S = 120.0  # for a worker to import what it needs


@dataclass(frozen=True)
class Finding:
    """A mutant that did what none may. `--target TARGET --seed SEED --only INDEX` shows it."""

    target: str
    seed: int
    index: int
    cause: str  #: the same for findings that are likely to be one fault
    said: str


@dataclass
class Report:
    """What came of one target."""

    target: str
    seed: int
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    seconds: float = 0.0
    next: int = 0  #: the first mutant that no worker has come to
    findings: list[Finding] = field(default_factory=list)

    @property
    def executions(self) -> int:
        """How many mutants were tried."""
        return sum(self.counts.values())

    def causes(self) -> dict[str, list[Finding]]:
        """Returns the findings by what is likely to be one fault."""
        found: dict[str, list[Finding]] = {}
        for finding in self.findings:
            found.setdefault(finding.cause, []).append(finding)
        return found


@dataclass(frozen=True)
class Limits:
    """When a target has been tried enough, and what one mutant may take."""

    seconds: float = float("inf")
    executions: int = 1 << 40  #: on top of those that the report has already
    hang_s: float = 2.0  #: of a mutant's own time, running or asleep; waiting for a CPU is not counted
    memory: int = MEMORY


def fuzz(
    target: str, seed: int, corpus: Path, limits: Limits, workers: int = 1, report: Report | None = None
) -> Report:
    """Tries mutants of a target until a limit is reached. Mutants 0 to N are the same whatever `workers` is.

    Goes on after those of `report`, where there is one, and adds to it.
    """
    report = Report(target, seed) if report is None else report
    begin = time.monotonic()
    until = time.time() + limits.seconds if limits.seconds < 1e9 else 1e300
    with tempfile.TemporaryDirectory(prefix="pepnet-fuzz-", dir=_memory_folder()) as folder:
        running = [
            _Worker(report, corpus, Path(folder) / str(number), limits, until, (number, workers))
            for number in range(workers)
        ]
        try:
            busy = list(running)
            while busy:
                busy = [worker for worker in busy if worker.look()]
                time.sleep(_POLL_S)
        finally:
            for worker in running:
                worker.stop()
    report.seconds += time.monotonic() - begin
    report.next = max(worker.next for worker in running)
    return report


class _Worker:
    """One place for a process: as soon as one has died another tries what comes after the mutant that killed it."""

    def __init__(
        self, report: Report, corpus: Path, folder: Path, limits: Limits, until: float, place: tuple[int, int]
    ) -> None:
        self._report, self._corpus, self._folder = report, corpus, folder
        self._limits, self._until, self._step = limits, until, place[1]
        self._stop = report.next + limits.executions
        folder.mkdir()
        self._findings = folder / "findings"
        self._findings.touch()
        (folder / "status").write_bytes(bytes(8 * STATUS))
        self._status = np.memmap(folder / "status", np.int64, "r+", shape=(STATUS,))
        self._start(report.next + place[0])

    @property
    def next(self) -> int:
        """The mutant after the last one that was tried here."""
        return int(self._status[INDEX]) + 1

    def look(self) -> bool:
        """Whether there is more to do; a process that hangs is ended."""
        ended = self._process.poll()
        if ended is None:
            spent = self._spent()
            if spent > self._limits.hang_s:
                self._hung(spent)
            return True
        if ended == 0:
            self._collect()
            return False
        index = int(self._status[INDEX])
        if self._status[BEGAN] == STARTING:
            raise RuntimeError(f"{self._report.target}: a worker ended before its first mutant: {self._said()}")
        why = signal.Signals(-ended).name if ended < 0 else f"exit code {ended}"
        self._found(index, f"{why} in {self._place()}", self._said())
        self._restart(index)
        return True

    def stop(self) -> None:
        """Ends the process, wherever it is."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _start(self, index: int) -> None:
        scratch = self._folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        self._status[BEGAN] = STARTING
        self._began = time.monotonic()
        options = {
            "target": self._report.target,
            "corpus": self._corpus,
            "scratch": scratch,
            "status": self._folder / "status",
            "findings": self._findings,
            "seed": self._report.seed,
            "start": index,
            "step": self._step,
            "stop": self._stop,
            "memory": self._limits.memory,
            "until": self._until,
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        tests = Path(__file__).parents[1]
        folder = os.pathsep.join([str(tests), str(tests / "support")])
        # glibc would set aside 64 MiB of addresses for each thread, and the limit on memory counts addresses.
        environment = {**os.environ, "PYTHONPATH": _prefixed(folder), "MALLOC_ARENA_MAX": "1", "PYTHONSAFEPATH": "1"}
        with open(self._folder / "said", "wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fuzz.worker", *words], stdout=said, stderr=said, env=environment
            )
        self._seen, self._waited = -1, 0

    def _restart(self, index: int) -> None:
        self._status[COUNTS] += 1  # the one that it died of
        self._start(index + self._step)

    def _spent(self) -> float:
        """Returns the seconds that the mutant under way has taken, but for those in which other processes ran."""
        began, index = int(self._status[BEGAN]), int(self._status[INDEX])
        if began == DONE:
            return 0.0
        if began == STARTING:
            if time.monotonic() - self._began > _STARTING_S:
                self.stop()
                raise RuntimeError(f"{self._report.target}: a worker does not start: {self._said()}")
            return 0.0
        waited = self._waiting()
        if index != self._seen:
            self._seen, self._waited = index, waited
        return (time.monotonic_ns() - began - (waited - self._waited)) / 1e9

    def _waiting(self) -> int:
        """Returns the nanoseconds for which the process was ready and another had the CPU."""
        try:
            return int(Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[1])
        except (OSError, IndexError):
            return 0

    def _hung(self, spent: float) -> None:
        index = int(self._status[INDEX])
        self._process.send_signal(signal.SIGUSR1)  # says where it is
        time.sleep(0.5)
        if int(self._status[INDEX]) != index:
            return  # it has just gone on
        self.stop()
        self._found(index, f"hang in {self._place()}", f"{spent:.1f} s and no end\n{self._said()}")
        self._restart(index)

    def _place(self) -> str:
        """Returns the innermost line of ours that a process said it was at."""
        lines = self._said().partition("most recent call first")[2].splitlines()[1:]
        ours = [line for line in lines if "pepnet_infer" in line] or lines
        return ours[0].strip().rpartition("/")[2].replace('", line ', ":") if ours else "?"

    def _said(self) -> str:
        return (self._folder / "said").read_text(errors="replace")[-6000:]

    def _found(self, index: int, cause: str, said: str) -> None:
        self._report.findings.append(Finding(self._report.target, self._report.seed, index, cause, said))

    def _collect(self) -> None:
        for line in self._findings.read_text(encoding="utf-8").splitlines():
            found = json.loads(line)
            self._found(found["index"], found["cause"], found["said"])
        for number, outcome in enumerate(OUTCOMES):
            self._report.counts[outcome] += int(self._status[COUNTS + number])


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _prefixed(folder: str) -> str:
    there = os.environ.get("PYTHONPATH")
    return folder if not there else f"{folder}{os.pathsep}{there}"
