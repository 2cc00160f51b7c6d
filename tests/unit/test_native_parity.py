"""Native scores measured at export and again by verify: what is recorded, what is refused, what is only offered."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from sklearn.metrics import roc_auc_score

from pepnet_infer import BackendError, BundleError, Engine, _kernels
from pepnet_infer.backends.native import NativeBackend
from pepnet_infer.bundle import Bundle
from pepnet_infer.export import write_bundle as module
from pepnet_infer.export.checkpoint import Checkpoint
from pepnet_infer.export.metrics import soft_auc
from pepnet_infer.export.native_parity import Reference, draws_of, measure_native
from pepnet_infer.export.network import build_network, dense_state, load_dense
from pepnet_infer.export.parity import ROWS, float64_run
from pepnet_infer.export.write_bundle import write_bundle
from pepnet_infer.golden import normal_inputs
from pepnet_infer.precisions import BUDGETS, MARGIN, excess
from pepnet_infer.verify import verify
from pepnet_infer.verify_native import Allowed

Run = Callable[..., tuple[int, str, str]]
Change = Callable[[np.ndarray], np.ndarray]

USABLE = {
    p: [i["isa"] for i in _kernels.isas() if i["precision"] == p and i["usable"]] for p in ("fp32", "bf16", "int8")
}
ABSENT = [i for i in _kernels.isas() if not i["usable"]]


# ── AUC with probabilities for labels


def brute_force(p: np.ndarray, s: np.ndarray) -> float:
    over = (s[:, None] > s[None, :]) + 0.5 * (s[:, None] == s[None, :])
    pairs = p[:, None] * (1 - p[None, :])
    return float((pairs * over).sum() / pairs.sum())


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 5, 300])
def test_soft_auc_is_that_of_rows_counted_twice(rows: int, ties: bool) -> None:
    rng = np.random.default_rng(rows)
    p, s = rng.random(rows), rng.standard_normal(rows)
    if ties:
        s = np.round(s)
    labels, weights = np.repeat([1, 0], rows), np.concatenate([p, 1 - p])
    expected = roc_auc_score(labels, np.concatenate([s, s]), sample_weight=weights)
    assert soft_auc(p, s) == pytest.approx(expected, abs=1e-12)
    assert soft_auc(p, s) == pytest.approx(brute_force(p, s), abs=1e-12)
    assert soft_auc(p, s) <= soft_auc(p, p) + 1e-15, "no order is better than that of the probabilities"


def test_soft_auc_of_certain_labels_is_auc() -> None:
    rng = np.random.default_rng(0)
    labels, s = rng.integers(0, 2, 500), np.round(rng.standard_normal(500), 1)
    assert soft_auc(labels, s) == pytest.approx(roc_auc_score(labels, s), abs=1e-12)
    assert soft_auc([0.3, 0.3, 0.3], [1.0, 1.0, 1.0]) == 0.5
    assert math.isnan(soft_auc([1.0, 1.0], [0.1, 0.2]))
    assert math.isnan(soft_auc([], []))


# ── what export records


def sabotage(monkeypatch: pytest.MonkeyPatch, precision: str, isa: str, change: Change) -> None:
    """Lets the native backend give other scores on one instruction set in one precision."""
    run = NativeBackend.run

    def wrong(self: NativeBackend, inputs: Any) -> np.ndarray:
        scores = run(self, inputs)
        asked = self.describe()
        return change(scores) if (asked["precision"], asked["isa"]) == (precision, isa) else scores

    monkeypatch.setattr(NativeBackend, "run", wrong)


def shifted(by: float, place: int = -1) -> Change:
    """Moves the score of the last task of one row."""

    def change(scores: np.ndarray) -> np.ndarray:
        scores = scores.copy()
        scores[place, -1] += by
        return scores

    return change


@pytest.fixture(scope="module")
def rows(toy_checkpoint: Checkpoint) -> dict[str, Reference]:
    network = build_network(toy_checkpoint.config, 2)
    load_dense(network, toy_checkpoint.dense)
    inputs = normal_inputs(toy_checkpoint.config.inputs, 3000, 0)
    ranked = Reference(inputs, float64_run(network)(inputs))
    return {"normal": ranked.first(ROWS), "ranked": ranked}


@pytest.fixture
def measured(toy_bundle: Path, rows: dict[str, Reference]) -> Callable[..., dict[str, Any]]:
    """Measures the toy bundle's kernels anew, on standard normal rows alone."""

    def measure(budgets: dict[str, dict[str, float]] = BUDGETS) -> dict[str, Any]:
        draws = dict.fromkeys(("fp32", *BUDGETS), rows["ranked"])
        return measure_native(Bundle.open(toy_bundle), {"normal": rows["normal"]}, draws, budgets)

    return measure


def test_every_instruction_set_and_precision_is_recorded(toy_bundle: Path) -> None:
    bundle = Bundle.open(toy_bundle)
    native = bundle.parity["native"]
    assert list(native) == ["fp32", "bf16", "int8"]
    counts: dict[str, int] = {}
    for precision, entry in native.items():
        assert list(entry["isas"]) == ["scalar", "avx2", "avx512", "amx"]
        assert [isa for isa, found in entry["isas"].items() if "auc" in found] == USABLE[precision]
        for isa in USABLE[precision]:
            found = entry["isas"][isa]
            counts[isa] = counts.get(isa, 0) + 1
            for name in ("normal", "schema"):
                assert found[name]["rows"] == 1077
                assert list(found[name]["tasks"]) == ["click", "like"]
                assert max(found[name]["tasks"].values()) == max(found[name]["batches"].values())
                assert 0 < found[name]["rms"] < found[name]["max_abs"] <= entry["max_abs"]
            assert found["auc"]["rows"] == 20_000
            assert found.get("draws", {}).get("rows") == (None if precision == "fp32" else 20_000)
            assert all(-1e-3 < delta <= 1e-12 for delta in found["auc"]["delta"].values())
            assert found["how"]
    for isa in ABSENT:
        assert native[isa["precision"]]["isas"][isa["isa"]] == {"why": f"not measured: {isa['why']}"}
    assert native["fp32"]["max_abs"] <= 5e-6 == bundle.parity["native_tolerance"]
    assert native["fp32"]["delta_auc"] < 1e-8
    assert native["fp32"]["max_abs"] < native["bf16"]["max_abs"] < native["int8"]["max_abs"]
    assert [entry["offered"] for entry in native.values()][:2] == [True, True]
    assert bundle.manifest["precisions"] == bundle.budgets == BUDGETS
    print("tables measured by instruction set:", counts)


def test_a_model_too_large_for_scalar_kernels_is_scored_on_fewer_rows(
    toy_bundle: Path, rows: dict[str, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pepnet_infer.export.native_parity._cost", lambda bundle: 10_560_000)
    bundle = Bundle.open(toy_bundle)
    assert draws_of(bundle) == 2366
    native = measure_native(bundle, {"normal": rows["normal"]}, {"fp32": rows["ranked"]}, {})
    scalar = native["fp32"]["isas"]["scalar"]
    assert list(scalar["normal"]["batches"]) == ["1", "2", "3", "7", "64"]
    assert (scalar["normal"]["rows"], scalar["auc"]["rows"]) == (77, 189)
    others = [native["fp32"]["isas"][isa] for isa in USABLE["fp32"][1:]]
    assert [(found["normal"]["rows"], found["auc"]["rows"]) for found in others] == [(1077, 3000)] * len(others)


@pytest.mark.parametrize("isa", USABLE["fp32"])
def test_fp32_that_is_off_is_named(measured, monkeypatch, isa: str) -> None:
    sabotage(monkeypatch, "fp32", isa, shifted(2e-5))
    message = (
        rf"^parity: native fp32 on {isa} on normal rows, batch 1: task 'like': expected 0\.\d+ within 5e-06, "
        r"got 0\.\d+ at row 0$"
    )
    with pytest.raises(BundleError, match=message):
        measured()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_scores_that_are_not_numbers_are_refused_in_every_precision(measured, monkeypatch, precision: str) -> None:
    sabotage(monkeypatch, precision, USABLE[precision][-1], shifted(math.nan))
    with pytest.raises(BundleError, match=rf"native {precision} on {USABLE[precision][-1]} on normal rows.* got nan"):
        measured()


def test_int8_is_offered_within_its_budget_only(measured, monkeypatch) -> None:
    wide = {**BUDGETS, "int8": {"max_abs": 0.9, "delta_auc": 0.5}}
    assert measured(wide)["int8"]["offered"]
    isa = USABLE["int8"][-1]
    sabotage(monkeypatch, "int8", isa, shifted(-0.65))
    entry = measured(wide)["int8"]
    assert not entry["offered"]
    assert entry["why"].startswith(f"over its budget: {isa}: max_abs 0.")
    assert entry["why"].endswith("allowed 0.9"), "the other instruction sets are within it"
    worst = entry["isas"][isa]["normal"]["max_abs"]
    assert entry["max_abs"] == MARGIN * worst > 0.9 > worst, "others may be worse than those that were measured"


def test_int8_that_orders_rows_worse_is_not_offered(measured, monkeypatch) -> None:
    wide = {**BUDGETS, "int8": {"max_abs": 0.9, "delta_auc": 1e-3}}
    isa = USABLE["int8"][0]
    sabotage(monkeypatch, "int8", isa, lambda scores: (0.5 + (scores[::-1] - 0.5) * 0.01).astype(np.float32))
    entry = measured(wide)["int8"]
    assert not entry["offered"]
    assert f"{isa}: delta_auc 0." in entry["why"]


def test_bf16_over_its_budget_is_offered_and_says_so(measured, monkeypatch) -> None:
    wide = {"bf16": {"rms": 0.02, "max_abs": 0.04, "delta_auc": 0.01}}
    assert measured(wide)["bf16"]["why"].startswith("within its budget (rms 0.02, max_abs 0.04, delta_auc 0.01)")
    isa = USABLE["bf16"][-1]
    sabotage(monkeypatch, "bf16", isa, shifted(0.06))
    entry = measured(wide)["bf16"]
    assert entry["offered"]
    assert entry["why"].startswith(f"always offered, but over its budget: {isa}: ")
    assert entry["why"].endswith("allowed 0.04"), "rms and AUC are not"


def test_a_figure_that_could_not_be_had_is_over_no_budget() -> None:
    assert excess({"delta_auc": 1e-3}, {"delta_auc": None}) == []
    assert excess({"delta_auc": 1e-3, "max_abs": 0.05}, {"delta_auc": 2e-3, "max_abs": 0.05}) == [
        "delta_auc 0.002, allowed 0.001"
    ]


# ── what export writes


@pytest.fixture
def quick(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports reuse the toy bundle's graph: the seconds that making one takes are not what is tested here."""
    graph = onnx.load(toy_bundle / "dense.onnx")
    monkeypatch.setattr(module, "to_onnx", lambda *_: graph)
    monkeypatch.setattr(module, "simplify", lambda *_: graph)


@pytest.mark.usefixtures("quick")
def test_a_bundle_is_not_written_when_a_kernel_is_wrong(toy_checkpoint, tmp_path, monkeypatch) -> None:
    sabotage(monkeypatch, "fp32", USABLE["fp32"][-1], shifted(-1e-4))
    with pytest.raises(BundleError, match=r"parity: native fp32 on \w+ on normal rows, batch 1: task 'like'"):
        write_bundle(toy_checkpoint, tmp_path / "bundle")
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("quick")
def test_int8_can_be_switched_off(toy_checkpoint: Checkpoint, tmp_path: Path) -> None:
    bundle = write_bundle(toy_checkpoint, tmp_path / "bundle", int8_budget=None)
    assert set(bundle.manifest["precisions"]) == {"bf16"}
    assert bundle.native["int8"] == {"offered": False, "why": "switched off at export, not measured", "isas": {}}
    with pytest.raises(BackendError, match=r"native int8 is not offered by this bundle, .*: switched off at export"):
        Engine.load(bundle.path, backend="native", precision="int8")
    assert verify(bundle.path)["native"]["int8"] == {
        "why": "not measured: not offered: switched off at export, not measured"
    }


@pytest.mark.usefixtures("quick")
def test_a_tight_budget_keeps_int8_from_being_loaded(toy_checkpoint: Checkpoint, tmp_path: Path) -> None:
    tight = {"max_abs": 1e-6, "delta_auc": 1e-3}
    bundle = write_bundle(toy_checkpoint, tmp_path / "bundle", int8_budget=tight)
    assert bundle.budgets["int8"] == tight
    assert bundle.native["int8"]["why"].startswith("over its budget: scalar: max_abs ")
    with pytest.raises(BackendError, match=r"native int8 is not offered by this bundle, .*max_abs 0.*, allowed 1e-06"):
        Engine.load(bundle.path, backend="native", precision="int8")
    wide = write_bundle(toy_checkpoint, tmp_path / "wide", int8_budget={"delta_auc": 0.5, "max_abs": 0.9})
    with Engine.load(wide.path, backend="native", precision="int8") as engine:
        assert engine.stats()["backend"]["precision"] == "int8"


@pytest.mark.parametrize(
    "budget", [{"max_abs": 0.1}, {"max_abs": 0.1, "delta_auc": 0.0}, {"max_abs": "1", "delta_auc": 1}]
)
def test_a_budget_that_is_none_is_refused(toy_checkpoint: Checkpoint, tmp_path: Path, budget: Any) -> None:
    with pytest.raises(
        BundleError, match=r"export: int8: (expected max_abs, delta_auc|\w+: expected a number above 0)"
    ):
        write_bundle(toy_checkpoint, tmp_path / "bundle", int8_budget=budget)
    assert os.listdir(tmp_path) == []


def test_a_baseline_has_none(toy_checkpoint: Checkpoint, tmp_path: Path) -> None:
    config = replace(toy_checkpoint.config, model="shared_bottom", backbone="mmoe", use_epnet=True)
    dense = dense_state(build_network(config, 2))
    bundle = write_bundle(replace(toy_checkpoint, config=config, dense=dense), tmp_path / "bundle")
    assert "shared_bottom" in bundle.parity["native"]["why"]
    assert (bundle.native, bundle.budgets) == ({}, {})
    assert verify(bundle.path)["native"] == bundle.parity["native"]


# ── what verify measures again


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
    monkeypatch.setattr("pepnet_infer.verify.find_spec", lambda name: None)
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
        found = Allowed.of(changed, precision)
        return found.golden, found.fresh

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


# ── the command line


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


@pytest.mark.usefixtures("quick")
def test_int8s_budget_is_an_option(command: Run, toy_checkpoint: Checkpoint, tmp_path: Path) -> None:
    toy_checkpoint.save(tmp_path / "ckpt")
    export = ("export", tmp_path / "ckpt", "--json", "--out")
    code, out, _ = command(*export, tmp_path / "a", "--int8-max-abs", "0.9", "--int8-delta-auc", "0.25")
    assert code == 0
    assert json.loads(out)["native"]["int8"]["offered"] is True
    assert Bundle.open(tmp_path / "a").budgets["int8"] == {"max_abs": 0.9, "delta_auc": 0.25}
    for number, words in enumerate((("--int8-max-abs", "off"), ("--int8-delta-auc", "0"))):
        code, out, _ = command(*export, tmp_path / f"off{number}", *words)
        assert code == 0
        assert json.loads(out)["native"]["int8"]["why"] == "switched off at export, not measured"
    for word in ("-1", "nan", "inf", "much"):
        code, out, err = command(*export, tmp_path / "b", "--int8-max-abs", word)
        assert (code, out) == (2, "")
        assert f"--int8-max-abs: expected a number of 0 or more, or off, got '{word}'" in err
