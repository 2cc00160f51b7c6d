"""Results as JSON and for people."""

from __future__ import annotations

import base64
import json
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pepnet_infer.bench.latency_figure import latency_figure
from pepnet_infer.bench.latency_page import latency_page, noise
from pepnet_infer.bench.peers import all_peers
from pepnet_infer.bench.ratios import PAIRS, named_ratios, ratio_table
from pepnet_infer.bench.report import Page, Result, Table, show_ms, write_whole
from pepnet_infer.errors import PepnetError

MACHINE = {
    "cpu": "Test CPU <9000>",
    "architecture": "x86_64",
    "isa": ["avx2", "avx512f", "avx512bf16"],
    "caches": {"L2 unified": 1 << 20, "L3 unified": 32 << 20},
    "cpus": {"machine": 8, "usable": 4, "quota": None, "why": "4 of the machine's 8 CPUs are in this process's cpuset"},
    "virtual_machine": True,
    "memory_bytes": 16 << 30,
    "system": "Linux 6.1",
    "python": "3.11.7",
    "libraries": {"numpy": "2.4.6", "onnxruntime": "1.32.0"},
    "limits": {
        "matrix": {"fp32": {"gflops": 200.0, "by": "torch 512x512x512"}},
        "l3_read_gbps": 150.0,
        "memory_read_gbps": 30.0,
        "memory_copy_gbps": 33.0,
        "weights_read_gbps": {"fp32": 60.0, "bf16": 120.0},
    },
}


def row(peer: str, batch: int, p50: float, other: str, ratio: float, **more: Any) -> dict[str, Any]:
    return {
        "peer": peer,
        "batch": batch,
        "precision": "fp32",
        "how": "somehow",
        "threads": 4,
        "runs": 30,
        "p50_ms": p50,
        "p99_ms": p50 * 1.5,
        "mean_ms": p50 * 1.1,
        "quantiles_ms": {str(q): p50 for q in (0, 25, 50, 75, 90, 99, 100)},
        "rows_per_s": batch / p50 * 1e3,
        "speedups": {other: {"ratio": ratio, "low": ratio * 0.9, "high": ratio * 1.1}},
        "unsettled": 0,
        "max_abs": 1.5e-6,
        "rms": 2e-7,
        "rows_checked": 1024,
        "load_s": 0.5,
        "settings": {"threads": 4},
        "gflops": 100.0,
        "matrix_share": 0.5,
        "weights_gbps": 12.0,
        "read_share": 0.2,
        **more,
    }


RANKED = {
    "backend": "native",
    "precision": "bf16",
    "speedups": {"score request": {"ratio": 1.3, "low": 1.2, "high": 1.4, "within_rounds": 1.31}},
}
OVERHEAD = {
    "model": "tiny",
    "rows": 64,
    "overhead_us": 2.84,
    "low": 2.8,
    "high": 2.9,
    "p99_us": 5.0,
    "score_dense_us": 8.5,
    "run_us": 5.7,
    "calls": 2000,
}


@pytest.fixture
def result() -> Result:
    rows = [
        row("onnxruntime", 1, 2.0, "engine-native", 0.5),
        row("engine-native", 1, 1.0, "onnxruntime", 2.0),
        row("onnxruntime", 64, 1234.5, "engine-native", 0.8),
        row("engine-native", 64, 987.6, "onnxruntime", 1.25, precision="bf16", matrix_share=None),
    ]
    calls = [
        {"call": call, "batch": 1, "p50_ms": 3.0, "p99_ms": 4.0, "runs": 30, "stages_ms": stages, **more}
        for call, stages, more in [
            ("score", {"encode": 1.0, "lookup": 0.25, "dense": 1.5}, {}),
            ("rank request", {"encode": 0.5, "lookup": 0.25, "dense": 1.5}, RANKED),
        ]
    ]
    data = {
        "bundle": "preset:toy",
        "tasks": ["click", "like"],
        "multiply_adds_a_row": 10_560_000,
        "weights": 10_570_000,
        "threads": 4,
        "baseline": "onnxruntime",
        "plan": {"runs": 30, "seconds": 10.0, "warm_calls": 1, "warm_s": 0.02, "settle_s": 0.5},
        "rotating_rows": 12000,
        "rotating_bytes": 12000 * 5536,
        "scores_std": 0.3,
        "rows": rows,
        "missing": [{"peer": "openvino", "batch": 64, "reason": "ModuleNotFoundError: No module <named> 'openvino'"}],
        "others_busy": {"batch 1": 0.01, "end to end, batch 64": 0.37},
        "end_to_end": calls,
    }
    return Result("latency", "pepnet-infer bench latency preset:toy --batch 1,64", MACHINE, data)


class Cells(HTMLParser):
    """Collects the text of table cells, the pictures, and whatever would be loaded from elsewhere."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.foreign: list[str] = []
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("td", "th"):
            self.cells.append("")
            self._in_cell = True
        if tag == "img":
            self.images.append(dict(attrs))
        if tag in ("script", "link", "iframe"):
            self.foreign.append(tag)
        self.foreign += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith("data:")]

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += data


def png_size(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_json_round_trip(result: Result) -> None:
    text = result.to_json()
    again = Result.from_json(text)
    assert again == result
    assert again.to_json() == text
    assert json.loads(text)["format_version"] == 1
    assert latency_page(again).html() == latency_page(result).html()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "r.json: format_version: expected 1, got 2"),
        ({"machine": None}, "r.json: machine: expected dict, got None"),
        ({"kind": 3}, "r.json: kind: expected str, got 3"),
        ({"more": 1}, "r.json: unknown key 'more'"),
    ],
)
def test_other_json_is_refused(result: Result, change: dict[str, Any], message: str) -> None:
    text = json.dumps(json.loads(result.to_json()) | change)
    with pytest.raises(PepnetError) as caught:
        Result.from_json(text, "r.json")
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["{", "", "[]", "null"])
def test_what_is_no_result_is_refused(text: str) -> None:
    with pytest.raises(PepnetError, match=r"^r\.json: (expected JSON|format_version: expected 1)"):
        Result.from_json(text, "r.json")


def test_nan_is_no_result(result: Result) -> None:
    result.data["scores_std"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        result.to_json()


def test_page_shows_every_row_and_why_a_peer_is_missing(result: Result) -> None:
    page = latency_page(result, b"\x89PNG picture")
    html = page.html()
    read = Cells(html)
    for text in ["engine-native", "1.00", "2.00×", "1.5e-06", "2.0e-07", "50%", "1234", "1.25×", "–"]:
        assert text in read.cells, text
    assert "0.80× (0.72–0.88)" in read.cells
    assert "ModuleNotFoundError: No module <named> 'openvino'" in read.cells
    assert "Test CPU <9000>, x86_64" in read.cells
    assert "<9000>" not in html
    assert read.foreign == []
    (image,) = read.images
    prefix, _, data = str(image["src"]).partition(",")
    assert prefix == "data:image/png;base64"
    assert base64.b64decode(data) == b"\x89PNG picture"
    assert "pepnet-infer bench latency preset:toy --batch 1,64" in html


def test_markdown_tables_are_well_formed(result: Result) -> None:
    text = latency_page(result).markdown()
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        lines = table.splitlines()
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
        assert len({len(line) for line in lines}) == 1
        assert set(lines[1]) <= set("|-: ")
    assert "10.56 M multiply-adds a row, 10.57 M weights, 2 tasks. Test CPU <9000> (virtual machine), 4 CPUs" in text
    assert "    pepnet-infer bench latency preset:toy" in text


def test_a_table_refuses_rows_of_other_lengths_and_escapes_bars() -> None:
    with pytest.raises(ValueError, match=r"table 't': expected 2 cells, got \['1'\]"):
        Table("t", ("a", "b"), [("1",)])
    assert Table("t", ("a",), [("x|y",)], frozenset({"a"})).markdown().splitlines()[2] == "| x\\|y |"


def test_ratios_stand_beside_what_they_are_worth() -> None:
    rows = [
        row("onnxruntime", 1, 2.0, "engine-native-bf16", 0.25),
        row("openvino-bf16", 1, 1.0, "engine-native-bf16", 0.5, rms=4e-3),
        row("engine-native-bf16", 1, 0.5, "openvino-bf16", 2.0, p99_ms=0.6, rms=2e-3, matrix_share=None),
        row("engine-native-bf16", 64, 0.7, "openvino-bf16", 3.0),
    ]
    ours = rows[2]["speedups"]
    ours["onnxruntime"] = {"ratio": 4.0, "low": 3.5, "high": 4.5}
    for entry in ours.values():
        entry["within_rounds"] = entry["ratio"] * 1.01
    entries = named_ratios(rows)
    assert [(e["peer"], e["against"], e["batch"]) for e in entries] == [
        ("engine-native-bf16", "openvino-bf16", 1),
        ("engine-native-bf16", "onnxruntime", 1),
    ]
    assert entries[0] | {"within_rounds": 0} == {
        "peer": "engine-native-bf16",
        "against": "openvino-bf16",
        "batch": 1,
        "ratio": 2.0,
        "low": 1.8,
        "high": 2.2,
        "within_rounds": 0,
        "p99_over_p50": pytest.approx(1.2),
        "matrix_share": None,
        "read_share": 0.2,
        "rms": 2e-3,
        "against_rms": 4e-3,
    }
    (first, second) = ratio_table(entries).rows
    name, other = "engine-native-bf16", "openvino-bf16"
    assert first == (name, other, "1", "2.00×", "1.80–2.20", "2.02×", "1.20", "–", "20%", "2.0e-03", "4.0e-03")
    assert second[1:4] == ("onnxruntime", "1", "4.00×")


def test_pairs_are_peers_that_exist() -> None:
    names = {spec.name for spec in all_peers()}
    assert {name for pair in PAIRS for name in pair} <= names


def test_noise_is_told(result: Result) -> None:
    assert noise(result.data) == (
        "other processes used 37% of the CPUs at most: too much for figures that are to be relied on"
    )
    result.data["others_busy"] = {"batch 1": 0.02}
    assert noise(result.data) == "other processes used 2% of the CPUs at most"
    result.data["rows"][0]["unsettled"] = 3
    assert noise(result.data).endswith("at most, 3 turns began before other pools had gone to sleep")
    result.data["rows"][1]["read_share"] = 1.04
    assert noise(result.data).endswith("gone to sleep")
    result.data["rows"][1]["read_share"] = 1.2
    assert noise(result.data).endswith(
        "gone to sleep; engine-native at batch 1 reached 120% of a limit of the machine, measured too low"
    )


def test_what_a_request_and_a_call_cost_is_shown(result: Result) -> None:
    result.data["overhead_us"] = [OVERHEAD]
    page = latency_page(result)
    plain, ranked = next(table for table in page.tables if table.title.startswith("End to end")).rows
    assert plain[:6] == ("score", "–", "1", "3.00", "4.00", "")
    assert ranked[:6] == ("rank request", "native bf16", "1", "3.00", "4.00", "1.30× (1.20–1.40)")
    (call,) = next(table for table in page.tables if table.title.startswith("Overhead")).rows
    assert call == ("tiny", "64", "2.8", "2.8–2.9", "5.0", "8.5", "5.7", "2000")


def test_a_baseline_without_figures_leaves_a_dash(result: Result) -> None:
    data = result.data
    data["rows"] = [row("torch", 1, 2.0, "openvino", 1.0)]
    table = latency_page(result).tables[0]
    assert table.rows[0][table.columns.index("speed-up")] == "–"
    assert png_size(latency_figure(result))[0] > 1000


def test_figure_grows_with_its_bars(result: Result) -> None:
    width, height = png_size(latency_figure(result))
    more = result.data["rows"] + [row(f"peer-{i}", 64, 5.0, "onnxruntime", 1.0) for i in range(10)]
    result.data["rows"] = more
    assert png_size(latency_figure(result))[0] == width
    assert png_size(latency_figure(result))[1] > height + 300


@pytest.mark.parametrize(("millis", "text"), [(0.01234, "0.012"), (1.234, "1.23"), (99.99, "99.99"), (1234.5, "1234")])
def test_milliseconds_have_the_digits_that_matter(millis: float, text: str) -> None:
    assert show_ms(millis) == text


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    write_whole(target, "old")
    write_whole(target, b"new")
    assert target.read_bytes() == b"new"
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(PepnetError, match="folder: cannot write: "):
        write_whole(folder, "text")
    with pytest.raises(PepnetError, match=r"missing/r\.json: cannot write: "):
        write_whole(tmp_path / "missing" / "r.json", "text")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "r.json"]


def test_a_page_without_picture_has_none() -> None:
    page = Page("title", "lead", "command", [Table("t", ("a",), [("1",)])])
    assert Cells(page.html()).images == []
