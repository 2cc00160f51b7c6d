"""Native scores measured at export: what is recorded, what is refused, what is only offered."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from small_networks import changed
from wrong_kernels import ABSENT, USABLE, sabotage, shifted

from pepnet_infer import BackendError, BundleError, Engine
from pepnet_infer.bundle.accuracy import BUDGETS, MARGIN, excess
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.bundle.golden_rows import Reference, normal_inputs
from pepnet_infer.export.bundle import write_bundle as module
from pepnet_infer.export.bundle.native_parity import draws_of, measure_native
from pepnet_infer.export.bundle.parity import ROWS, reference
from pepnet_infer.export.bundle.write_bundle import write_bundle
from pepnet_infer.export.model.baselines import DeepFM
from pepnet_infer.export.model.network import build_network, dense_state, load_dense
from pepnet_infer.schema.network_config import BASELINES
from pepnet_infer.verify.verify import verify

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def rows(toy_checkpoint: Checkpoint) -> dict[str, Reference]:
    network = build_network(toy_checkpoint.config, 2)
    load_dense(network, toy_checkpoint.dense)
    ranked = reference(network, normal_inputs(toy_checkpoint.config.inputs, 3000, 0))
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
    monkeypatch.setattr("pepnet_infer.export.bundle.native_parity.multiply_adds", lambda *_: 10_560_000)
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
        BundleError, match=r"export: int8(: expected max_abs, delta_auc|\.\w+: expected a number above 0)"
    ):
        write_bundle(toy_checkpoint, tmp_path / "bundle", int8_budget=budget)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("model", BASELINES)
def test_baselines_are_measured_and_run_natively(
    model: str, toy_checkpoint: Checkpoint, toy_batch: Callable[..., Any], tmp_path: Path
) -> None:
    extra = DeepFM.slots(toy_checkpoint.schema) if model == "deepfm" else {}
    config = changed(toy_checkpoint.config, model=model, extra=extra)
    torch.manual_seed(4)
    dense = dense_state(build_network(config, 2))
    bundle = write_bundle(replace(toy_checkpoint, config=config, dense=dense), tmp_path / "bundle")
    assert bundle.native["fp32"]["max_abs"] <= 5e-6
    assert bundle.native["bf16"]["offered"] is True
    with Engine.load(bundle.path) as engine, Engine.load(bundle.path, backend="onnxruntime") as other:
        assert engine.stats()["backend"]["backend"] == "native"
        difference = np.abs(engine.score(toy_batch(50)).values - other.score(toy_batch(50)).values)
        assert difference.max() <= 5e-6
    verify(bundle.path)


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
        assert code == 2
        assert json.loads(out)["error"]["kind"] == "UsageError"
        assert f"'--int8-max-abs': expected a number of 0 or more, or off, got '{word}'" in err
