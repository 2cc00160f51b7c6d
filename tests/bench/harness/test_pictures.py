"""Pictures: what they refuse to draw, and that they grow with what is in them."""

from __future__ import annotations

import struct

import pytest

pytest.importorskip("matplotlib")

from pepnet_infer.bench.harness.pictures import Chart, Line, draw_lines


def png_size(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_lines_that_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="must have same first dimension"):
        draw_lines("t", "s", [Chart("c", "x", "y", [Line("a", [1, 2], [1], "a")], [])])


def test_three_charts_stand_beside_each_other_and_more_below() -> None:
    charts = [
        Chart("c", "x", "y", [Line("a", [1, 2], [1, 2], "a"), Line("b", [1, 2], [2, 3], "a", True)], [(1, "one")])
    ]
    three, four = (png_size(draw_lines("t", "s", charts * number)) for number in (3, 4))
    assert three[0] == four[0]
    assert four[1] > three[1] + 300
