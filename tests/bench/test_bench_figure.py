"""What a picture of bars refuses to draw."""

from __future__ import annotations

import pytest

from pepnet_infer.bench.figure import Bar, Panel, draw_bars


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ([], "expected bars in every panel"),
        ([Panel("p", [])], r"expected bars in every panel, got \[0\]"),
        ([Panel("p", [Bar("a", 0.0, 1.0, "g", ())])], "expected 0 < value <= high and 0 cells"),
        ([Panel("p", [Bar("a", 2.0, 1.0, "g", ())])], "expected 0 < value <= high and 0 cells"),
        ([Panel("p", [Bar("a", 1.0, 2.0, "g", ("x",))])], "expected 0 < value <= high and 0 cells"),
    ],
)
def test_figure_refuses_what_it_cannot_draw(panels: list[Panel], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_bars("t", "s", "ms", (), panels)
