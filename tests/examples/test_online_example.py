"""examples/online.py, whole: two processes, a log between them, and figures that come out the same again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SYNTHETIC = EXAMPLES.parent / "export" / "data" / "synthetic.yaml"
NAMES = ["frozen", "dense only", "rows only", "both", "both, gset", "both, lru", "both, lfu"]


def run(out: Path, *words: str) -> str:
    """Returns the text that the example writes."""
    # The example is a script with parts beside it, which a safe path would hide from it.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, str(EXAMPLES / "online.py"), "--out", str(out), *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    image = (out / "online.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert len(image) < 100_000
    text = (out / "online.md").read_text(encoding="utf-8")
    assert text in done.stdout
    return text


def cells(text: str, row: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {row}"))
    return [cell.strip(" *") for cell in line.strip("|").split("|")[1:]]


@pytest.mark.slow
def test_on_generated_traffic_twice(tmp_path: Path) -> None:
    words = [
        "--data",
        "synthetic:4000",
        "--config",
        str(SYNTHETIC),
        "--every",
        "8",
        "--days",
        "3",
    ]
    words += ["--share", "10"]  # so little is known here that all of it fits: bounded caches lose nothing
    one, other = (run(tmp_path / name, *words) for name in ("one", "other"))
    figures = [text[: text.index("In the end")] for text in (one, other)]
    assert figures[0] == figures[1]
    assert cells(one, "AUC of click")[1:] == NAMES
    days = [cells(one, f"day {day}") for day in (2, 3)]
    assert [int(day[0].replace(",", "")) for day in days] == pytest.approx([667, 667], abs=120)
    for day in days:
        frozen, dense, rows, both, *bounded = day[1:]
        assert len({frozen, dense, rows, both}) == 4
        assert bounded == [both] * 3
    assert re.search(r"- both: .* had a row; 5 deltas", one)
    assert re.search(r"- dense only: .* had a row; 5 deltas, 0 rows", one)


@pytest.mark.slow
@pytest.mark.kuairand
@pytest.mark.skipif("PEPNET_KUAIRAND" not in os.environ, reason="needs the folder named by PEPNET_KUAIRAND")
def test_quick_on_the_real_log(tmp_path: Path) -> None:
    text = run(tmp_path / "out", "--quick")
    overall = [float(value) for value in cells(text, "**click, all days**")[1:]]
    assert min(overall) > 0.7
    assert overall[3] > overall[0]
    assert cells(text, "day 3")[0] == "13,818"
    for policy in ("gset", "lru", "lfu"):
        fits = re.search(rf"- both, {policy}: .*; ([\d.]+)% of all rows fit, ([\d.]+)% of their bytes", text)
        assert fits is not None
        assert 14 < float(fits[1]) < 21
        assert 14 < float(fits[2]) <= 20
