"""A short form of every fuzzer, from a fixed seed, and the supervisor on a target that does all that none may."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from random import Random

import numpy as np
import pytest

from fuzz.corpus import ROWS, SCHEMA, batch, write_corpus
from fuzz.native import NativeTarget
from fuzz.native_arguments import Call, Draw
from fuzz.native_calls import SCENARIOS
from fuzz.supervisor import Limits, Report, fuzz
from fuzz.target import Outcome, Target, check_scores
from fuzz.worker import TARGETS, stream
from pepnet_infer import _kernels
from pepnet_infer.engine import Engine

#: Mutants of each target: a few seconds' worth on a slow machine.
EXECUTIONS = {
    "bundle": 300,
    "delta": 250,
    "redis": 250,
    "redis-server": 60,
    "snapshot": 500,
    "arrow": 400,
    "parquet": 150,
}
#: A guard against hangs, wide enough for any machine. `make fuzz` allows 2 s.
HANG_S = 60.0


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


def said(report: Report) -> str:
    return "\n".join(f"{cause}: {found[0].index}\n{found[0].said}" for cause, found in report.causes().items())


@pytest.mark.parametrize("target", TARGETS)
def test_no_mutant_does_what_none_may(target: str, corpus: Path) -> None:
    if target == "redis-server" and shutil.which("redis-server") is None:
        pytest.skip("needs redis-server on the PATH (Debian: apt-get install redis-server)")
    executions = EXECUTIONS.get(target, 2000)
    report = fuzz(target, 14, corpus, Limits(executions=executions, hang_s=HANG_S))
    assert not report.findings, said(report)
    assert report.executions == executions
    # Neither are all refused at the door, nor does what is changed not matter.
    assert min(report.counts["accepted"], report.counts["refused"]) > executions // 50, report.counts


def test_what_is_mutated_is_good(corpus: Path) -> None:
    with Engine.load(corpus / "bundle", threads=1) as engine:
        check_scores(engine.score(batch()), ROWS, len(SCHEMA.tasks))


def test_every_part_of_the_extension_is_called() -> None:
    made = [call.name for seed in range(2000) for call in _scenario(seed)]
    parts = {name for name in dir(_kernels) if not name.startswith("_")}
    # What calls return, and what they give to those that they call; what needs the library for a GPU.
    others = {"Ops", "PackedMatrix", "Fetch", "Handed", "CudaLibrary", "CudaModel", "CudaRows", "CudaWaiting"}
    assert parts - {name.partition(".")[0] for name in made} <= others
    called = {name.partition(".")[2] for name in made if "." in name} | {"hand_over"}  # by what `ask` calls
    first = {"RowCache", "FlightTable", "DenseModel", "Table", "KeyIndex", "SideRows", "NumberColumns", "Ops"}
    first |= {"Pins", "Fetches", "Tally", "FileMap", "RowOverlay", "studies.ExactCache"}
    for kind in first:
        assert {name for name in dir(attrgetter(kind)(_kernels)) if not name.startswith("_")} <= called
    assert {f"studies.{name}" for name in dir(_kernels.studies) if not name.startswith("_")} <= set(made)


@pytest.mark.parametrize("scenario", dict.fromkeys(SCENARIOS), ids=lambda scenario: scenario.__name__)
def test_calls_with_what_is_expected_are_accepted(
    scenario: Callable[[Draw], list[Call]], corpus: Path, tmp_path: Path
) -> None:
    """Else a fuzzer would see no more than the door."""
    target, accepted = NativeTarget(corpus, tmp_path), 0
    for seed in range(40):
        draw = Draw(Random(seed), [("scalar", "fp32")])
        draw.most_odd = 0.0
        with contextlib.suppress(*target.refusals):
            accepted += target.run(scenario(draw)) == "accepted"
    assert accepted >= 4


def _scenario(seed: int) -> list[Call]:
    random = Random(seed)
    return random.choice(SCENARIOS)(Draw(random, [("scalar", "fp32")]))


class Faulty(Target[int]):
    """Does what none may, each at a mutant of its own."""

    def make(self, random: Random) -> int:
        return random.randrange(1000)

    def run(self, mutant: int) -> Outcome:
        count = self.count = getattr(self, "count", -1) + 1  # of this process: the next one begins anew
        first = not (self.corpus / "seen").exists()
        if first and count == 2:
            raise KeyError("not one of ours")
        if first and count == 3:
            bytearray(600_000_000)
        if first and count == 4:
            check_scores(_Scores(), 1, 1)
        if first and count == 5:
            (self.corpus / "seen").touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        if (self.corpus / "seen").exists() and not (self.corpus / "hung").exists() and count == 1:
            (self.corpus / "hung").touch()
            time.sleep(1000)
        return "accepted"


class _Scores:
    values = np.array([[np.nan]], np.float32)
    invalid = None


def test_what_none_may_do_is_found_and_the_next_is_tried(tmp_path: Path) -> None:
    report = fuzz("fuzz.test_fuzz:Faulty", 1, tmp_path, Limits(executions=12, hang_s=1.0))
    causes = sorted(report.causes())
    expected = ["KeyError", "MemoryError", "SIGSEGV", "WrongScore", "hang"]
    assert [cause.split()[0] for cause in causes] == sorted(expected, key=str)
    assert report.executions == 12
    assert {finding.index for finding in report.findings} == {2, 3, 4, 5, 7}


def test_a_mutant_follows_from_its_seed_and_index(corpus: Path, tmp_path: Path) -> None:
    from fuzz.worker import load, stream

    for name in ("bundle", "delta", "redis", "snapshot", "native"):
        texts = []
        for number in range(2):
            (tmp_path / f"{name}{number}").mkdir()
            target = load(name, corpus, tmp_path / f"{name}{number}")
            texts.append([target.show(target.make(stream(name, 3, index))) for index in (5, 17)])
        assert texts[0] == texts[1]
        assert texts[0][0] != texts[0][1]


class Noting(Target[float]):
    """Notes which mutants it was given."""

    def make(self, random: Random) -> float:
        return random.random()

    def run(self, mutant: float) -> Outcome:
        with open(self.corpus / "seen", "a") as file:
            file.write(f"{mutant}\n")
        return "accepted"


def test_a_second_turn_goes_on_with_other_mutants(tmp_path: Path) -> None:
    name = "fuzz.test_fuzz:Noting"
    report = fuzz(name, 1, tmp_path, Limits(executions=7, hang_s=HANG_S))
    fuzz(name, 1, tmp_path, Limits(executions=6, hang_s=HANG_S), workers=2, report=report)
    seen = (tmp_path / "seen").read_text().split()
    assert sorted(map(float, seen)) == sorted(stream(name, 1, index).random() for index in range(13))
    assert (report.executions, report.next) == (13, 13)


def test_the_command_of_make_starts() -> None:
    """From nothing but the paths that the Makefile gives it: pytest's own have more on them."""
    root = Path(__file__).parents[2]
    (paths,) = re.findall(r"^\tPYTHONPATH=(\S+) .*\n.*-m fuzz", (root / "Makefile").read_text(), re.MULTILINE)
    command = [sys.executable, "-m", "fuzz", "--seconds=0", "--executions=1", "--workers=1", "--target=delta"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [paths, os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(
        [*command, "--seed=1"],
        cwd=root,
        env=environment | {"PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "executions, seed 1; by target:" in done.stdout


def test_a_method_of_nothing_is_refused() -> None:
    for method in (_kernels.Hold.__enter__, _kernels.Hold.__exit__):
        with pytest.raises(TypeError):
            method(None)  # type: ignore[arg-type]
