"""What the command line says of native: `inspect` and `cpu`, PEPNET_ISA, and `score` in each precision."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pepnet_infer import _kernels
from pepnet_infer.backends import ort
from pepnet_infer.cli import export
from pepnet_infer.process.cpu import CpuLimits
from pepnet_infer.storage.listing import describe_files

Command = Callable[..., tuple[int, str, str]]
PRECISIONS = ("fp32", "bf16", "int8")


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEPNET_ISA", raising=False)
    monkeypatch.setattr(ort, "no_gpu_because", lambda: "no GPU in this test")


def words(text: str) -> str:
    return " ".join(text.split())


#: What export writes of int8 that is too far off.
NOT_OFFERED = {"offered": False, "why": "over its budget", "max_abs": 0.5, "rms": 0.1, "delta_auc": 1e-4, "isas": {}}


def altered(bundle: Path, target: Path, **parity: object) -> Path:
    """A copy of the bundle with other entries in parity.json; None takes one away."""
    shutil.copytree(bundle, target)
    known = json.loads((target / "parity.json").read_text()) | parity
    (target / "parity.json").write_text(json.dumps({k: v for k, v in known.items() if v is not None}))
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["files"] = {k: v for k, v in describe_files(target).items() if k != "manifest.json"}
    manifest["precisions"] = {"int8": {"max_abs": 0.02, "delta_auc": 1e-3}}
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def measured(bundle: Path, precision: str) -> dict[str, Any]:
    """What the bundle's export measured of a precision."""
    found: dict[str, Any] = json.loads((bundle / "parity.json").read_text())["native"][precision]
    return found


def test_inspect_says_what_auto_takes_and_why(command: Command, toy_bundle: Path, tmp_path: Path) -> None:
    bundle = altered(toy_bundle, tmp_path / "b", native={"bf16": measured(toy_bundle, "bf16"), "int8": NOT_OFFERED})
    code, out, err = command("inspect", bundle, "--json")
    assert (code, err) == (0, "")
    taken = json.loads(out)["auto"]
    assert set(taken) == set(PRECISIONS)
    for precision in ("fp32", "bf16"):
        best = _kernels.choose(precision)
        said = taken[precision]
        assert (said["backend"], said["device"]) == ("native", "cpu")
        assert (said["isa"], said["how"], said["isa_why"]) == (best["isa"], best["how"], best["why"])
    assert taken["fp32"]["why"] == "auto: native: it runs this model"
    assert "int8 is not offered by this bundle" in taken["int8"]["problem"]
    assert "max_abs 0.5, allowed 0.02" in taken["int8"]["problem"]
    code, out, _ = command("inspect", bundle)
    assert code == 0
    assert "what backend auto takes on this machine" in out
    for text in (f"bf16 native {_kernels.choose('bf16')['isa']} (", "int8 none ", "it runs this model"):
        assert text in words(out), text


def test_inspect_says_why_native_cannot(command: Command, toy_bundle: Path, tmp_path: Path) -> None:
    bundle = altered(toy_bundle, tmp_path / "b", native=None)
    taken = json.loads(command("inspect", bundle, "--json")[1])["auto"]
    assert "native has int8 where export measured it, got no native.int8 in" in taken["int8"]["problem"]
    assert "onnxruntime has fp32, got 'int8'" in taken["int8"]["problem"]


@pytest.mark.parametrize("text", ["[/x]", "[bold]", "a\n\x1b[2J"])
def test_inspect_shows_text_of_a_bundle_as_it_is(command: Command, toy_bundle: Path, tmp_path: Path, text: str) -> None:
    entry = NOT_OFFERED | {"why": text, "isas": {text: {"why": text}}}
    spread = {"rows": 1, "max_abs": 0.0, "rms": 0.0}
    bundle = altered(toy_bundle, tmp_path / "b", native={"int8": entry}, fp32={text: {text: spread}})
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["tools"] = {text: text}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    code, out, _ = command("inspect", bundle)
    assert code == 0
    shown = text.replace("\n", " ").replace("\x1b", "\\x1b")
    assert words(out).count(shown) == 7
    assert words(command("inspect", bundle, "--json")[1]).count(json.dumps(text)[1:-1]) >= 7


def test_a_folder_with_brackets_in_its_name_is_shown_as_it_is(
    command: Command, toy_bundle: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(toy_bundle, tmp_path / "b[" / "x]"))
    code, out, _ = command("verify", bundle)
    assert code == 0
    assert "b[/x]" in "".join(out.split())  # a long path is folded
    with io.StringIO() as shown:
        export.render(
            Console(file=shown, width=300),
            {
                "bundle": str(bundle),
                "model_version": 1,
                "bytes": 1,
                "max_abs_difference": {},
                "tolerance": 1e-5,
                "native": {"why": "[/x]"},
            },
        )
        assert f"{bundle}, version 1" in shown.getvalue()


def test_inspect_and_cpu_honour_the_variable(
    command: Command, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEPNET_ISA", "scalar")
    said = json.loads(command("inspect", toy_bundle, "--json")[1])["auto"]["fp32"]
    assert (said["isa"], said["isa_why"]) == ("scalar", "PEPNET_ISA=scalar")
    kernels = json.loads(command("cpu", "--json")[1])["kernels"]
    assert kernels["PEPNET_ISA"] == "scalar"
    assert {choice["isa"] for choice in kernels["chosen"].values()} == {"scalar"}
    monkeypatch.setenv("PEPNET_ISA", "avx3")
    problem = "PEPNET_ISA: isa: expected scalar, avx2, avx512 or amx, got 'avx3'"
    assert json.loads(command("inspect", toy_bundle, "--json")[1])["auto"]["fp32"] == {"problem": problem}
    code, out, _ = command("cpu", "--json")
    assert code == 0
    assert json.loads(out)["kernels"]["chosen"] == {p: {"problem": problem} for p in PRECISIONS}
    out = words(command("cpu")[1])
    assert out.count(problem) == 3
    assert " chosen " not in out


def test_cpu_lists_every_table_and_the_choice(command: Command) -> None:
    code, out, _ = command("cpu", "--json")
    assert code == 0
    kernels = json.loads(out)["kernels"]
    assert kernels["PEPNET_ISA"] is None
    assert {(t["isa"], t["precision"]) for t in kernels["tables"]} == {
        (isa, precision) for isa in ("scalar", "avx2", "avx512", "amx") for precision in PRECISIONS
    }
    for table in kernels["tables"]:
        assert table["why"]
        assert table["built"] or not table["usable"]
        assert bool(table["how"]) is table["built"]
    assert kernels["chosen"] == {precision: _kernels.choose(precision) for precision in PRECISIONS}
    out = words(command("cpu")[1])
    assert "PEPNET_ISA not set" in out
    for precision in PRECISIONS:
        best = _kernels.choose(precision)
        assert f"{precision} {best['isa']} chosen {best['how']}; {best['why']}" in out
    assert out.count(" chosen ") == 3


def test_cpu_says_what_of_the_cpu_is_disabled(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = {"L2": 36 << 20, "L1": 48 << 10, "L3": 1536 << 10}
    known = _kernels.cpu_info() | {"present": ["a", "b"], "usable": ["a"], "caches": caches}
    limits = CpuLimits(machine=4, affinity=4, quota=None, quota_source="", threads=4)
    monkeypatch.setattr(_kernels, "cpu_info", lambda: known)
    monkeypatch.setattr("pepnet_infer.cli.cpu.cpu_limits", lambda: limits)
    said = json.loads(command("cpu", "--json")[1])
    assert (said["present"], said["usable"], said["disabled"]) == (["a", "b"], ["a"], ["b"])
    assert said["threads"]["quota_source"] is None
    shown = command("cpu")[1]
    assert "disabled b (in the CPU, not enabled by the system)" in words(shown)
    assert "L2 36 MiB, L1 48 KiB, L3 1536 KiB" in words(shown)
    known["present"] = ["a"]
    assert "disabled" not in command("cpu")[1]
    assert json.loads(command("cpu", "--json")[1])["disabled"] == []


def test_score_in_each_precision(
    command: Command, toy_bundle: Path, toy_table: Callable[..., pa.Table], tmp_path: Path
) -> None:
    native = {precision: measured(toy_bundle, precision) | {"offered": True} for precision in ("bf16", "int8")}
    bundle = altered(toy_bundle, tmp_path / "b", native=native)
    pq.write_table(toy_table(200), tmp_path / "in.parquet")
    found = []
    for precision in PRECISIONS:
        out = tmp_path / precision
        code, said, err = command("score", bundle, tmp_path / "in.parquet", "--out", out, "--precision", precision)
        assert code == 0, err
        assert f"on native {_kernels.choose(precision)['isa']} {precision}, " in said
        found.append(pq.read_table(out / "in.parquet")["score_like"].to_numpy())
    for other in found[1:]:
        assert 0 < abs(other - found[0]).max() < 0.05


def test_scores_of_another_isa_are_made_anew(
    command: Command,
    toy_bundle: Path,
    toy_table: Callable[..., pa.Table],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pq.write_table(toy_table(50), tmp_path / "in.parquet")
    request = ("score", toy_bundle, tmp_path / "in.parquet", "--out", tmp_path / "out")
    best = _kernels.choose("fp32")["isa"]
    for isa, kept in (("scalar", 0), ("scalar", 1), (best, int(best == "scalar"))):
        monkeypatch.setenv("PEPNET_ISA", isa)
        code, said, err = command(*request, "--json")
        assert code == 0, err
        assert len(json.loads(said)["skipped"]) == kept
