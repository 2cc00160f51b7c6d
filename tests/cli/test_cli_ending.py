"""How a command ends: exit codes of real processes, errors as JSON, signals."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pepnet_infer.cli.output import ExitCode
from pepnet_infer.process.cpu import cpu_limits

Command = Callable[..., tuple[int, str, str]]

# `pepnet-infer` whose second batch says "waiting" and takes a minute.
SLOW = """
import sys, time
from pepnet_infer import Engine
from pepnet_infer.cli.main import main
score, calls = Engine.score_features, []
def slow(engine, features):
    calls.append(features)
    if len(calls) == 2:
        print("waiting", file=sys.stderr, flush=True)
        time.sleep(60)
    return score(engine, features)
Engine.score_features = slow
main()
"""


@pytest.fixture
def folder(toy_table: Callable[..., pa.Table], tmp_path: Path) -> Path:
    """A folder with in/a.parquet and in/b.parquet; two rows of the second are bad."""
    (tmp_path / "in").mkdir()
    pq.write_table(toy_table(100, 1), tmp_path / "in" / "a.parquet")
    table = toy_table(50, 2)
    users = pa.array([None, -1, *table["user_id"].to_pylist()[2:]])
    pq.write_table(table.set_column(table.column_names.index("user_id"), "user_id", users), tmp_path / "in/b.parquet")
    return tmp_path


def score(bundle: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pepnet_infer.cli.main", "score", str(bundle), "in", "--out", "out", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def test_too_many_bad_rows_end_with_3_and_also_when_they_were_written_by_an_earlier_run(
    toy_bundle: Path, folder: Path
) -> None:
    words = ("--on-bad-row", "null", "--json", "--max-bad-rows")
    for skipped in (0, 2):
        done = score(toy_bundle, folder, *words, "1")
        assert done.returncode == ExitCode.INCOMPLETE == 3, done.stderr
        result = json.loads(done.stdout)
        assert (len(result["skipped"]), result["null_rows"]) == (skipped, 2)
        assert result["incomplete"] == ["2 rows have null scores, more than --max-bad-rows 1 allows"]
        assert done.stderr.endswith("incomplete: 2 rows have null scores, more than --max-bad-rows 1 allows\n")
    done = score(toy_bundle, folder, *words, "2")
    assert done.returncode == ExitCode.DONE == 0, done.stderr
    assert json.loads(done.stdout)["incomplete"] == []


def test_errors_are_json_with_their_place(toy_bundle: Path, folder: Path, command: Command) -> None:
    done = score(toy_bundle, folder, "--json")
    assert done.returncode == ExitCode.FAILED == 1
    error = json.loads(done.stdout)["error"]
    assert (error["kind"], error["column"], error["row"], error["exit_code"]) == ("SchemaError", "user_id", 0, 1)
    assert error["file"] == "in/b.parquet"
    assert error["message"].startswith("in/b.parquet: column 'user_id': expected ")
    assert done.stderr.splitlines()[-1] == f"error: SchemaError: {error['message']}"
    code, out, _ = command("inspect", folder / "nowhere", "--json")
    assert code == 1
    assert json.loads(out)["error"] == {
        "kind": "BundleError",
        "message": f"{folder}/nowhere: expected a bundle (a folder with manifest.json), got nothing; "
        "`pepnet-infer export` writes one",
        "exit_code": 1,
        "column": None,
        "row": None,
        "file": None,
    }
    code, out, said = command("score", toy_bundle, "--json", "--thread", 3)
    assert code == ExitCode.USAGE == 2
    error = json.loads(out)["error"]
    assert error["kind"] == "UsageError"
    assert error["message"] in said
    assert said.endswith("see pepnet-infer score --help")
    code, out, _ = command("publish", folder / "log", "--json")
    assert code == 1
    assert json.loads(out)["error"]["reason"] == "missing"


@contextmanager
def waiting(bundle: Path, folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Yields a process that scores its second batch of in/a.parquet."""
    command = [sys.executable, "-c", SLOW, "score", str(bundle), "in/a.parquet", "--out", "out", "--batch-rows", "64"]
    process = subprocess.Popen(
        [*command, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line == "waiting\n":
                break
        else:
            pytest.fail(f"the process ended with {process.wait()}")
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "code", "kind"),
    [(signal.SIGINT, ExitCode.INTERRUPTED, "Interrupted"), (signal.SIGTERM, ExitCode.TERMINATED, "Terminated")],
)
def test_a_signal_ends_the_run_leaves_nothing_half_written_and_is_told(
    toy_bundle: Path, folder: Path, number: signal.Signals, code: ExitCode, kind: str
) -> None:
    with waiting(toy_bundle, folder, "--json", "--progress", "none") as process:
        process.send_signal(signal.SIGUSR1)  # answered at once, whatever --progress says
        assert process.stderr is not None
        line = process.stderr.readline()
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S* in/a\.parquet: 64 of 100 rows, 0 null rows, \d+\.\d s; "
            r"in all 64 of 100 rows, 0 null rows, 0 of 1 files, \d+\.\d s\n",
            line,
        )
        process.send_signal(number)
        out, said = process.communicate(timeout=60)
    assert process.returncode == code == 128 + number
    assert json.loads(out)["error"]["kind"] == kind
    assert said == f"error: {kind}: {number.name} came before the end\n"
    assert list((folder / "out").iterdir()) == []


def test_threads_hold_for_reading_and_more_than_the_machine_has_are_told(
    toy_bundle: Path, folder: Path, command: Command
) -> None:
    before = pa.cpu_count(), pa.io_thread_count()
    try:
        many = cpu_limits().threads + 3
        for threads in (1, many):
            words = (toy_bundle, folder / "in" / "a.parquet", "--out", folder / "out", "--threads", threads, "--json")
            code, out, said = command("score", *words, "--no-resume")
            assert code == 0, said
            assert json.loads(out)["backend"]["threads"] == threads
            assert (pa.cpu_count(), pa.io_thread_count()) == (threads, threads)
            assert (f"note: --threads {threads}: more than the CPUs this process may use" in said) == (threads == many)
    finally:
        pa.set_cpu_count(before[0])
        pa.set_io_thread_count(before[1])


def test_the_page_has_every_exit_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "jobs.md").read_text(encoding="utf-8")
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == sorted(ExitCode)


def test_an_error_is_json_whatever_the_system_says_of_the_path(command: Command) -> None:
    code, out, err = command("inspect", "a" * 300, "--json")
    assert (code, json.loads(out)["error"]["kind"]) == (ExitCode.FAILED, "BundleError")
    assert "expected a bundle" in err


def test_a_stdout_that_takes_nothing_leaves_the_sentence_and_the_exit_code() -> None:
    words = [sys.executable, "-m", "pepnet_infer.cli.main", "inspect", "nowhere", "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == ExitCode.FAILED
    assert done.stderr.startswith("error: BundleError: nowhere: expected a bundle")
    assert "Traceback" not in done.stderr
