"""The one way to print a table, and progress on a terminal."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from rich.console import Console

from pepnet_infer.cli import progress as progress_module
from pepnet_infer.cli.output import show_table, table_width
from pepnet_infer.cli.progress import ProgressMode, Watch

HEAD = ("file", "why", "bytes")
ROWS = [
    ("tables/a-very-long-name-that-nobody-chose.safetensors", "because it is so, and for no other reason", "1,234,567"),
    ("b", "", "–"),
]


@pytest.fixture
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Sets COLUMNS."""
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


def shown(*table: Any) -> list[str]:
    console = Console(file=io.StringIO())
    show_table(console, *table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [1, 30, 79, 100, 10_000], indirect=True)
def test_the_first_column_is_whole_and_no_other_is_cut_at_any_width(width: int) -> None:
    lines = shown("files", HEAD, ROWS)
    assert any(line.startswith(ROWS[0][0]) for line in lines)
    text = " ".join(lines)
    for word in [*ROWS[0][1].split(), "1,234,567"]:
        assert word in text
    assert "…" not in text
    assert max(map(len, lines)) <= max(width, len(ROWS[0][0]) + 2 + 20)


@pytest.mark.parametrize("width", [10_000], indirect=True)
def test_where_there_is_room_a_row_is_a_line_and_figures_are_set_to_the_right(width: int) -> None:
    (row,) = [line for line in shown("files", HEAD, ROWS) if line.startswith("b ")]
    assert row.endswith("          –")
    (row,) = [line for line in shown("files", HEAD, ROWS) if ROWS[0][0] in line]
    assert row == "  ".join(ROWS[0])


@pytest.mark.parametrize("width", [100], indirect=True)
def test_cells_are_text_and_not_markup_and_rows_without_headings_have_no_rule(width: int) -> None:
    assert shown("", (), [("a[/x]\x1b[2J", "[bold]"), ("only one cell",)]) == [
        "a[/x]\\x1b[2J   [bold]",
        "only one cell",
        "",
    ]


def test_the_width_is_what_columns_says_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("COLUMNS", "57")
    assert table_width() == 57
    monkeypatch.delenv("COLUMNS")
    assert table_width() is None


@pytest.mark.parametrize(("mode", "terminal"), [("auto", True), ("auto", False), ("plain", True), ("none", True)])
def test_a_bar_is_shown_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, mode: ProgressMode, terminal: bool
) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
    monkeypatch.setattr(progress_module, "progress", console)
    with Watch(mode) as watch:
        watch.step("read")
        watch.step("score")
        watch.at(3, 7, "fast", "3 of 7")
        watch.line("a file")
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    bar = mode == "auto" and terminal
    assert ("3/7" in said) == bar
    assert ("a file" in said) == (mode != "none" and not bar)
    assert ("read" in said) == (mode != "none")
