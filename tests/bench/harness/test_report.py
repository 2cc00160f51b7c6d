"""Tables on a terminal and in Markdown, and the figures as JSON."""

from __future__ import annotations

import json

import pytest

from pepnet_infer.bench.harness.machine import facts, machine_line
from pepnet_infer.bench.harness.report import Report, Table, show_ms

ROWS = [
    {"name": "engine-native-bf16", "p50_ms": 1.234, "faster": {"x:y": {"ratio": 2.0}}, "rms": 1.5e-6, "bytes": 5 << 20},
    {"name": "a|b", "p50_ms": 1234.5, "rms": None, "note": "[words] in brackets, and more of them than fit beside"},
]
COLUMNS = {
    "peer": "{name}",
    "p50 ms": "{p50_ms:ms}",
    "p50 µs": "{p50_ms:us}",
    "speed-up": "{faster[x:y][ratio]:.2f}×",
    "rms error": "{rms:.1e}",
    "MiB": "{bytes:MiB}",
    "note": "{note}",
}


@pytest.fixture
def table() -> Table:
    return Table("Two peers", ROWS, COLUMNS, "What it says.")


def test_cells_are_values_in_their_format_and_dashes_where_there_are_none(table: Table) -> None:
    assert table.cells() == [
        ["engine-native-bf16", "1.23", "1234.0", "2.00×", "1.5e-06", "5", "–"],
        ["a|b", "1234", "1234500.0", "–", "–", "–", "[words] in brackets, and more of them than fit beside"],
    ]


def test_markdown_is_a_table_with_figures_to_the_right(table: Table) -> None:
    lines = table.markdown().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split("|")[1:4] == [" ------------------ ", " -----: ", " --------: "]
    assert lines[3].startswith("| a\\|b ")
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


@pytest.mark.parametrize("width", [None, 200, 80, 60, 40, 10])
def test_text_never_cuts_the_first_column_and_keeps_to_the_width(table: Table, width: int | None) -> None:
    text = table.text(width)
    lines = text.splitlines()
    assert "engine-native-bf16" in text
    if width is not None:
        assert all(len(line) <= max(width, 40) for line in lines[1:])
    names = [line for line in lines if line.startswith("engine-native-bf16")]
    headings = [line for line in lines if line.startswith("peer ")]
    assert len(names) == len(headings) == (1 if width in (None, 200) else len(names))
    words = [cell for row in table.cells() for cell in row[1:-1]] + ["[words]", "beside", "What"]
    for word in words:
        assert word in text


def test_every_block_has_the_first_column_again() -> None:
    rows = [{"name": f"peer-{i}", **{f"c{j}": 1000 + j for j in range(9)}} for i in range(2)]
    text = Table("t", rows, {"peer": "{name}", **{f"c{j}": f"{{c{j}:d}}" for j in range(9)}}).text(30)
    assert text.count("peer-0") == text.count("peer-1") == 3
    assert [text.count(str(1000 + j)) for j in range(9)] == [2] * 9


def test_a_page_has_title_command_tables_and_notes(table: Table) -> None:
    more = Table("More", [{"what": "x"}], {"what": "{what}"})
    report = Report("latency", "A title", "About.", {"n": 1}, [table, more], ["A note."])
    lead = f"About. Measured on {machine_line(report.machine)}."
    page = report.markdown("pepnet-infer bench latency b", "r.png")
    assert page.startswith(
        f"# A title\n\n{lead}\n\n    pepnet-infer bench latency b\n\n![A title](r.png)\n\n**Two peers**"
    )
    assert 0 < page.index("**More**") < page.index("**Machine**") < page.index("- A note.\n\n- How it is measured")
    assert "![" not in report.markdown("c")
    data = json.loads(report.to_json("pepnet-infer bench latency b"))
    assert (data["kind"], data["command"], data["machine"], data["data"]) == (
        "latency",
        "pepnet-infer bench latency b",
        facts(),
        {"n": 1},
    )
    nan = Report("latency", "A title", "About.", {"n": float("nan")}, [])
    with pytest.raises(ValueError, match="not JSON compliant"):
        nan.to_json("c")


@pytest.mark.parametrize(("millis", "text"), [(0.01234, "0.012"), (1.234, "1.23"), (99.99, "99.99"), (1234.5, "1234")])
def test_milliseconds_have_the_digits_that_matter(millis: float, text: str) -> None:
    assert show_ms(millis) == text
