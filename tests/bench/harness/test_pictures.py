"""Pictures: what they refuse to draw, and that they grow with what is in them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

pytest.importorskip("matplotlib")

from pepnet_infer.bench.harness.pictures import Bar, Chart, Line, draw_bars, draw_lines


def png_size(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ([], "expected bars in every panel"),
        ([("p", [])], r"expected bars in every panel, got \[0\]"),
        ([("p", [Bar("a", 0.0, 1.0, "g", ())])], "expected 0 < value <= high and 0 cells"),
        ([("p", [Bar("a", 2.0, 1.0, "g", ())])], "expected 0 < value <= high and 0 cells"),
        ([("p", [Bar("a", 1.0, 2.0, "g", ("x",))])], "expected 0 < value <= high and 0 cells"),
    ],
)
def test_bars_that_cannot_be_drawn(panels: Sequence[tuple[str, Sequence[Bar]]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_bars("t", "s", "ms", (), panels)


def test_a_picture_grows_with_its_bars() -> None:
    few, many = (
        png_size(draw_bars("t", "s", "ms", ("ms",), [("p", [Bar(str(i), 1.0, 2.0, "g", ("x",)) for i in range(n)])]))
        for n in (2, 12)
    )
    assert few[0] == many[0]
    assert many[1] > few[1] + 300


def test_lines_that_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="expected charts, got none"):
        draw_lines("t", "s", [])
    with pytest.raises(ValueError, match="expected as many ys as xs"):
        draw_lines("t", "s", [Chart("c", "x", "y", [Line("a", [1, 2], [1], "a")], [])])


def test_three_charts_stand_beside_each_other_and_more_below() -> None:
    charts = [
        Chart("c", "x", "y", [Line("a", [1, 2], [1, 2], "a"), Line("b", [1, 2], [2, 3], "a", True)], [(1, "one")])
    ]
    three, four = (png_size(draw_lines("t", "s", charts * number)) for number in (3, 4))
    assert three[0] == four[0]
    assert four[1] > three[1] + 300
