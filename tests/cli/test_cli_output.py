"""The one way to print a table, and progress on a terminal."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from pepnet_infer.cli import progress as progress_module
from pepnet_infer.cli.output import results, show_table
from pepnet_infer.cli.progress import ProgressMode, Watch

HEAD = ("file", "why", "bytes")
ROWS = [
    ("tables/a-very-long-name-that-nobody-chose.safetensors", "because it is so, and for no other reason", "1,234,567"),
    ("b", "", "–"),
]


def shown(width: int, *table: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    show_table(console, *table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [1, 30, 79, 100, 10_000])
def test_the_first_column_is_whole_and_no_other_is_cut_at_any_width(width: int) -> None:
    lines = shown(width, "files", HEAD, ROWS)
    text = " ".join(" ".join(lines).split())
    assert any(ROWS[0][0] in line for line in lines)
    assert "1,234,567" in text
    for word in ROWS[0][1].split():
        assert word in text
    assert "…" not in text
    for line in lines:
        assert len(line) <= max(width, len(ROWS[0][0]) + 12 + 9 + 10)


def test_where_there_is_room_a_row_is_a_line_and_figures_are_set_to_the_right() -> None:
    lines = shown(10_000, "files", HEAD, ROWS)
    (row,) = [line for line in lines if line.lstrip().startswith("b ")]
    assert row.rstrip().endswith("        –")
    (row,) = [line for line in lines if ROWS[0][0] in line]
    assert row.split("   ")[1:] == [ROWS[0][1], f"{ROWS[0][2]}  "]


def test_cells_are_text_and_not_markup() -> None:
    lines = shown(100, "", (), [("a[/x]\x1b[2J", Text("styled", "bold")), ("only one cell",)])
    assert "a[/x]\\x1b[2J" in "".join(lines)
    assert "styled" in "".join(lines)


def test_the_width_is_what_columns_says_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("COLUMNS", "57")
    assert results().width == 57
    monkeypatch.delenv("COLUMNS")
    assert results().width > 1000


@pytest.mark.parametrize(("mode", "terminal"), [("auto", True), ("auto", False), ("plain", True), ("none", True)])
def test_a_bar_is_shown_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, mode: ProgressMode, terminal: bool
) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
    monkeypatch.setattr(progress_module, "progress", console)
    with Watch(mode) as watch:
        watch.step("read")
        watch.step("score")
        watch.at(3, 7, "fast", lambda: "3 of 7")
        watch.line("a file")
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    bar = mode == "auto" and terminal
    assert ("3/7" in said) == bar
    assert ("a file" in said) == (mode != "none" and not bar)
    assert ("read" in said) == (mode != "none")
