"""A network's list of operations as a drawing: a box for each, in columns by depth, and lines for what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_BOX, _GAP = (168, 46), (72, 18)  # width and height, in pixels
_MARGIN, _TITLE = 24, 34
_INPUTS = ("general", "domain", "prior")
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1b1f24 } .small { font-size: 10.5px; fill: #57606a }
  .title { font-size: 15px; font-weight: 600 } .box { stroke: #8c959f; rx: 5 } .line { fill: none; stroke: #8c959f }
  .input { fill: #ddf4ff } .head { fill: #dafbe1 }
"""


def network_svg(
    title: str, operations: Sequence[dict[str, Any]], inputs: dict[str, int], heads: Mapping[str, str]
) -> str:
    """Returns the drawing as the text of an SVG file.

    operations: of `network.cost.costs`, as dicts, in order. inputs: their widths. heads: operation → kind of its
    scores. The more of the network's multiply-adds an operation has, the darker is its box.
    """
    shapes = {name: f"{inputs[name]} columns" for name in _INPUTS}
    shapes |= {one["name"]: "{} × {}".format(*one["shape"]) for one in operations}
    columns = _columns(operations, inputs, heads)
    places = _places(columns)
    most = max((one["multiply_adds"] for one in operations), default=0) or 1
    parts = [_line(places, source, one["name"]) for one in operations for source in dict.fromkeys(one["reads"])]
    parts += [_line(places, name, _score(name)) for name in heads]
    parts += [_box(places[name], name, shapes[name], "input", "") for name in _INPUTS if name in places]
    for one in operations:
        share = one["multiply_adds"] / most
        fill = f"fill: rgb(255 {round(250 - 90 * share)} {round(240 - 150 * share)})"
        note = f"{one['op']}, {shapes[one['name']]}"
        hint = f"{one['multiply_adds']:,} multiply-adds a row, {one['weight_bytes']:,} bytes of weights"
        parts.append(_box(places[one["name"]], one["name"], note, "", hint, fill))
    parts += [_box(places[_score(name)], kind, f"scores of {name}", "head", "") for name, kind in heads.items()]
    width = max(x for x, _ in places.values()) + _BOX[0] + _MARGIN
    height = max(y for _, y in places.values()) + _BOX[1] + _MARGIN
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f'<style>{_STYLE}</style>\n<rect width="100%" height="100%" fill="#ffffff"/>\n'
        f'<text class="title" x="{_MARGIN}" y="{_MARGIN}">{escape(title)}</text>\n{body}\n</svg>\n'
    )


def _score(name: str) -> str:
    """The place of a head's scores: no operation has a name of two lines."""
    return f"{name}\nscores"


def _columns(
    operations: Sequence[dict[str, Any]], inputs: dict[str, int], heads: Mapping[str, str]
) -> list[list[tuple[str, tuple[str, ...]]]]:
    """Names and what they read, by the longest way from an input."""
    depth = dict.fromkeys(_INPUTS, 0)
    columns: dict[int, list[tuple[str, tuple[str, ...]]]] = {0: [(name, ()) for name in _INPUTS if inputs[name] > 0]}
    for one in operations:
        depth[one["name"]] = 1 + max((depth[source] for source in one["reads"]), default=0)
        columns.setdefault(depth[one["name"]], []).append((one["name"], tuple(one["reads"])))
    last = 1 + max(depth.values())
    for name in heads:
        columns.setdefault(last, []).append((_score(name), (name,)))
    return [columns[at] for at in sorted(columns)]


def _places(columns: list[list[tuple[str, tuple[str, ...]]]]) -> dict[str, tuple[int, int]]:
    """The corner of each box. A column is sorted by where what its boxes read stands on average."""
    places: dict[str, tuple[int, int]] = {}
    tallest = max(map(len, columns))
    for at, column in enumerate(columns):
        heights = {name: [places[one][1] for one in reads if one in places] for name, reads in column}
        ordered = sorted(column, key=lambda one: sum(heights[one[0]]) / max(1, len(heights[one[0]])))
        begin = _MARGIN + _TITLE + (tallest - len(column)) * (_BOX[1] + _GAP[1]) // 2
        for row, (name, _) in enumerate(ordered):
            places[name] = (_MARGIN + at * (_BOX[0] + _GAP[0]), begin + row * (_BOX[1] + _GAP[1]))
    return places


def _line(places: dict[str, tuple[int, int]], source: str, reader: str) -> str:
    (x, y), (to_x, to_y) = places[source], places[reader]
    x, y, to_y = x + _BOX[0], y + _BOX[1] // 2, to_y + _BOX[1] // 2
    bend = max(24, (to_x - x) // 2)
    return f'<path class="line" d="M{x} {y} C{x + bend} {y} {to_x - bend} {to_y} {to_x} {to_y}"/>'


def _box(place: tuple[int, int], name: str, note: str, kind: str, hint: str, style: str = "") -> str:
    x, y = place
    shown, hover = (escape(text if len(text) < 27 else f"{text[:25]}…") for text in (name, note))
    tip = escape("\n".join(filter(None, (name, note, hint))))
    return (
        f'<g><title>{tip}</title><rect class="box {kind}" x="{x}" y="{y}" width="{_BOX[0]}" height="{_BOX[1]}" '
        f'style="{style}"/><text x="{x + 9}" y="{y + 19}">{shown}</text>'
        f'<text class="small" x="{x + 9}" y="{y + 36}">{hover}</text></g>'
    )
