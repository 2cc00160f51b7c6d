"""Every subcommand prints something sensible where the terminal does not know every letter."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pepnet_infer.cli.main import COMMANDS, main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line with stdout and stderr in `encoding` → (exit code, what it wrote to each)."""

    def invoke(encoding: str, *words: object) -> tuple[int, str, str]:
        streams = []
        for name in ("stdout", "stderr"):
            streams.append(io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True))
            monkeypatch.setattr(sys, name, streams[-1])
        monkeypatch.setattr("sys.argv", ["pepnet-infer", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        said = [stream.buffer.getvalue().decode(encoding) for stream in streams]  # type: ignore[attr-defined]
        return int(end.value.code or 0), said[0], said[1]

    return invoke


BENCHES = ("latency", "offline", "cache", "cache-speed", "sync")


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS), ("bench",), *(("bench", b) for b in BENCHES)])
def test_help(run: Run, words: tuple[str, ...]) -> None:
    for encoding in ("ascii", "latin-1"):
        code, out, _ = run(encoding, *words, "--help")
        assert code == 0
        assert "Usage:" in out


def test_a_bundle_is_shown_and_verified(run: Run, toy_bundle: Path) -> None:
    for encoding in ("ascii", "latin-1", "utf-8"):
        code, out, err = run(encoding, "inspect", toy_bundle)
        assert (code, err) == (0, "")
        assert ("page ← tab" if encoding == "utf-8" else "page <- tab") in out
        code, out, _ = run(encoding, "verify", toy_bundle)
        assert code == 0
        assert ("(≤" if encoding == "utf-8" else "(<=") in out


def test_files_are_scored_and_published(
    run: Run, toy_bundle: Path, toy_table: Callable[..., pa.Table], tmp_path: Path
) -> None:
    pq.write_table(toy_table(9), tmp_path / "é.parquet")
    code, _, err = run("ascii", "score", toy_bundle, tmp_path / "é.parquet", "--out", tmp_path / "out")
    assert code == 0, err
    assert run("ascii", "publish", tmp_path / "log", toy_bundle, toy_bundle)[0] in (0, 1)
    assert run("ascii", "cpu")[0] == 0


def test_errors_spell_names_out(run: Run, tmp_path: Path) -> None:
    code, _, err = run("ascii", "inspect", tmp_path / "naïve×2\udc80")
    assert code == 1
    assert "BundleError" in err
    assert r"na\xefvex2\udc80" in "".join(err.split())
    code, _, err = run("utf-8", "inspect", tmp_path / "naïve×2\udc80")
    assert r"naïve×2\udc80" in "".join(err.split())


def test_a_result_that_cannot_be_written_ends_with_1() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    words = [sys.executable, "-m", "pepnet_infer.cli.main", "cpu", "--json"]
    reader, writer = os.pipe()
    os.close(reader)
    for handle, said in ((os.open("/dev/full", os.O_WRONLY), "No space left on device"), (writer, "")):
        done = subprocess.run(words, env=environment, stdout=handle, stderr=subprocess.PIPE, text=True, check=False)
        os.close(handle)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr


def test_a_handler_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch, toy_bundle: Path) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr("sys.argv", ["pepnet-infer", "inspect", str(toy_bundle)])
    with pytest.raises(SystemExit):
        main()
    assert stream.errors == "replace"
    assert "page ? tab" in stream.buffer.getvalue().decode()  # type: ignore[attr-defined]
