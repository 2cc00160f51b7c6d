"""Native scores measured again by verify: on every instruction set, with and without PyTorch."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wrong_kernels import ABSENT, USABLE, sabotage, shifted

from pepnet_infer import BackendError, BundleError, Engine
from pepnet_infer.bundle.accuracy import BUDGETS
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.verify import verify as verifying
from pepnet_infer.verify.verify import verify

Run = Callable[..., tuple[int, str, str]]


def test_verify_scores_on_every_instruction_set(toy_bundle: Path) -> None:
    native = verify(toy_bundle)["native"]
    for precision, most in (("fp32", 5e-6), ("bf16", 0.4)):
        assert [isa for isa, entry in native[precision].items() if "golden" in entry] == USABLE[precision]
        for isa in USABLE[precision]:
            entry = native[precision][isa]
            assert entry["golden"]["rows"] == 16
            assert {name: figures["rows"] for name, figures in entry["fresh"].items()} == {
                "normal": 1077,
                "schema": 1077,
            }
            allowed = entry["allowed"]
            assert 0 < entry["golden"]["max_abs"] <= allowed["golden"] <= allowed["fresh"] <= most
            assert 0 < max(figures["max_abs"] for figures in entry["fresh"].values()) <= allowed["fresh"]
    for isa in ABSENT:
        assert native[isa["precision"]].get(isa["isa"], {"why": "not measured"})["why"].startswith("not measured")


def test_without_torch_golden_rows_remain(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pepnet_infer.verify.verify.find_spec", lambda name: None)
    entry = verify(toy_bundle)["native"]["fp32"][USABLE["fp32"][0]]
    assert entry["fresh"] is None
    assert 0 < entry["golden"]["max_abs"] <= 5e-6


@pytest.mark.parametrize(("precision", "by"), [("fp32", 2e-5), ("bf16", 0.4)])
def test_verify_finds_a_kernel_that_is_wrong_here(run_verify, monkeypatch, precision: str, by: float) -> None:
    isa = USABLE[precision][-1]
    sabotage(monkeypatch, precision, isa, shifted(by))
    code, out, err = run_verify()
    assert (code, out) == (1, "")
    assert f"BundleError: native {precision} on {isa} against" in err
    assert "golden rows one by one: task 'like': expected 0." in err


def test_what_verify_allows(toy_bundle: Path) -> None:
    bundle = Bundle.open(toy_bundle)

    def allowed(precision: str, budget: float, measured: float) -> tuple[float, float]:
        native = {precision: {"offered": True, "why": "", "isas": {}, "max_abs": measured}}
        budgets = {precision: {**BUDGETS[precision], "max_abs": budget}}
        changed = replace(bundle, manifest={"precisions": budgets}, parity={"native": native})
        return verifying.allowed(changed, precision)

    assert allowed("bf16", 0.01, 0.002) == (0.01, 0.01)
    assert allowed("bf16", 0.01, 0.008) == (0.01, 3 * 0.008)
    assert allowed("int8", 0.05, 0.04) == (0.05, 3 * 0.04)
    assert allowed("bf16", 0.01, 0.02) == (1.5 * 0.02, 3 * 0.02)


@pytest.fixture
def run_verify(command: Run, toy_bundle: Path) -> Run:
    return lambda: command("verify", toy_bundle)


def test_verify_finds_scores_that_depend_on_the_batch(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_rows(scores: np.ndarray) -> np.ndarray:
        return scores if len(scores) == 1 else np.nextafter(scores, np.float32(1))

    sabotage(monkeypatch, "fp32", USABLE["fp32"][0], by_rows)
    with pytest.raises(BundleError, match="expected the same bits one by one and in one batch, got 0"):
        verify(toy_bundle)


def relist(root: Path, name: str, document: dict[str, Any]) -> None:
    (root / name).write_text(json.dumps(document))
    data = (root / name).read_bytes()
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (root / "manifest.json").write_text(json.dumps(manifest))


def test_a_bundle_of_before_loads_and_verifies(toy_bundle: Path, tmp_path: Path, command: Run) -> None:
    old = Path(shutil.copytree(toy_bundle, tmp_path / "old"))
    parity = json.loads((old / "parity.json").read_text())
    del parity["native"], parity["native_tolerance"]
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["precisions"]
    (old / "manifest.json").write_text(json.dumps(manifest))
    relist(old, "parity.json", parity)
    bundle = Bundle.open(old)
    assert (bundle.native, bundle.budgets) == ({}, {})
    with Engine.load(old, backend="native") as engine:
        assert engine.stats()["backend"]["backend"] == "native"
    with pytest.raises(BackendError, match=r"native bf16 needs the domain that export measured, got none in .*parity"):
        Engine.load(old, backend="native", precision="bf16")
    with pytest.raises(BackendError, match="native has int8 where export measured it"):
        Engine.load(old, backend="native", precision="int8")
    native = verify(old)["native"]
    assert native["int8"] == {"why": "not measured: export did not measure it"}
    for precision, most in (("fp32", 5e-6), ("bf16", None)):
        for isa in USABLE[precision]:
            assert native[precision][isa]["allowed"] == {"golden": most, "fresh": most}
    code, out, _ = command("inspect", old)
    assert code == 0
    assert "native: export did not measure it" in out


def test_inspect_and_verify_show_the_figures(command: Run, toy_bundle: Path) -> None:
    code, out, _ = command("inspect", toy_bundle)
    assert code == 0
    for word in ("native fp32: offered", "native bf16: offered", "native int8:", "ΔAUC", *USABLE["fp32"]):
        assert word in out, word
    code, out, _ = command("inspect", toy_bundle, "--json")
    summary = json.loads(out)["native"]
    assert summary["fp32"]["offered"] is True
    assert 0 < summary["bf16"]["delta_auc"] < 1e-3
    code, out, _ = command("verify", toy_bundle)
    assert code == 0
    for isa in USABLE["fp32"]:
        assert isa in out
    assert "5.0e-06" in out
