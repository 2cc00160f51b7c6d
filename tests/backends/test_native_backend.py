"""The native backend behind the engine: what it takes, what it refuses and why, what it says of itself."""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pepnet_infer import BackendError, BundleError, ConfigError, Engine, _kernels
from pepnet_infer.backends import ort
from pepnet_infer.backends.create import create_backend, plan
from pepnet_infer.backends.native import rows_of_all_precisions
from pepnet_infer.backends.protocol import Settings
from pepnet_infer.bench.latency.overhead import clocked_engine
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.process.cpu import available_threads
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.storage.listing import describe_files

ISAS = [t["isa"] for t in _kernels.isas() if t["usable"] and t["precision"] == "fp32"]
#: Largest difference from float64 that a score may have.
BOUNDS = {"fp32": 5e-6, "bf16": 1e-2, "int8": 5e-2}


@pytest.fixture(scope="module")
def bundle(toy_bundle: Path) -> Bundle:
    return Bundle.open(toy_bundle)


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEPNET_ISA", raising=False)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "no_gpu_because", lambda: "no GPU in this test")


def with_int8(bundle: Bundle, measured: dict[str, object]) -> Bundle:
    budget = {"precisions": {"int8": {"max_abs": 0.02, "delta_auc": 0.001}}}
    return dataclasses.replace(
        bundle,
        parity={**bundle.parity, "native": {"int8": measured}},
        manifest={**bundle.manifest, **budget},
    )


@pytest.mark.usefixtures("no_gpu")
def test_auto_takes_native_and_says_why(bundle: Bundle) -> None:
    said = create_backend(bundle).describe()
    best = _kernels.choose("fp32")
    assert (said["backend"], said["device"], said["precision"]) == ("native", "cpu", "fp32")
    assert (said["isa"], said["how"]) == (best["isa"], best["how"])
    assert said["threads"] == available_threads()
    assert said["spin"] is True
    weights = sum(array.nbytes for array in bundle.dense().values())
    assert weights <= said["packed_bytes"] <= 64 * weights  # panels of 16 columns: the toy's are narrow
    assert said["why"].startswith("auto: native: it runs this model; isa ")
    assert said["why"].endswith(f"isa {best['isa']}: {best['why']}")
    json.dumps(said, allow_nan=False)


def test_what_is_asked_for_is_what_runs(bundle: Bundle) -> None:
    for isa in ISAS:
        said = create_backend(bundle, "native", threads=3, options={"isa": isa, "spin": False}).describe()
        runs = _kernels.choose("fp32", isa)["isa"]  # amx has no fp32 of its own
        assert (said["isa"], said["threads"], said["spin"]) == (runs, 3, False)
        assert said["why"] == f"asked for; isa {runs}: asked for"
    packed = {p: create_backend(bundle, "native", p, options={"unchecked": True}).describe() for p in BOUNDS}
    # Not so bf16 and fp32: the toy's matrices are narrower than the padding, and some of bf16's stay float32.
    assert packed["int8"]["packed_bytes"] < min(packed[p]["packed_bytes"] for p in ("bf16", "fp32"))
    assert {p: said["precision"] for p, said in packed.items()} == {p: p for p in BOUNDS}


def test_stats_have_what_the_backend_says(toy_bundle: Path) -> None:
    with Engine.load(toy_bundle, backend="native", precision="bf16", threads=2, options={"spin": False}) as engine:
        said = engine.stats()["backend"]
    wanted = {"backend", "device", "precision", "isa", "how", "threads", "spin", "why", "packed_bytes"}
    assert wanted <= said.keys()
    assert (said["backend"], said["precision"], said["threads"], said["spin"]) == ("native", "bf16", 2, False)


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("isa", ISAS)
def test_scores_are_those_of_float64(
    bundle: Bundle, reference_scores: Callable[..., np.ndarray], isa: str, precision: str
) -> None:
    backend = create_backend(bundle, "native", precision, threads=2, options={"isa": isa, "unchecked": True})
    for rows in (0, 1, 2, 7, 17, 300):
        inputs = normal_inputs(bundle.config.inputs, rows, seed=rows)
        expected = reference_scores(bundle.config, bundle.dense(), inputs.general, inputs.domain, inputs.prior)
        scores = backend.run(inputs)
        assert scores.dtype == np.float32
        assert scores.shape == (rows, 2)
        assert np.abs(scores - expected).max(initial=0.0) <= BOUNDS[precision]
    assert expected.std() > 0.1  # a bound on scores that are all alike would say nothing


def test_the_environment_names_the_isa(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEPNET_ISA", "scalar")
    said = create_backend(bundle).describe()
    assert said["isa"] == "scalar"
    assert said["why"].endswith("isa scalar: PEPNET_ISA=scalar")
    assert (
        create_backend(bundle, options={"isa": ISAS[-1]}).describe()["isa"] == _kernels.choose("fp32", ISAS[-1])["isa"]
    )
    monkeypatch.setenv("PEPNET_ISA", "avx3")
    for backend in ("native", "auto"):  # not a reason to take another backend in silence
        with pytest.raises(BackendError, match="PEPNET_ISA: isa: expected scalar, avx2, avx512 or amx, got 'avx3'"):
            create_backend(bundle, backend)


def test_an_isa_that_is_not_here_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [t for t in _kernels.isas() if not t["usable"]]
    if not missing:
        pytest.skip("this machine runs every table")
    isa, precision = missing[0]["isa"], missing[0]["precision"]
    message = rf"isa: expected one that runs {precision} here, got {isa}: "
    options = {"isa": isa, "unchecked": True}
    for backend in ("native", "auto"):
        with pytest.raises(BackendError, match=message):
            create_backend(bundle, backend, precision, options=options)
    monkeypatch.setenv("PEPNET_ISA", isa)
    with pytest.raises(BackendError, match=f"PEPNET_ISA: {message}"):
        create_backend(bundle, "native", precision, options={"unchecked": True})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"precision": "fp16"}, r"^precision: native has fp32, bf16, int8, got 'fp16'$"),
        ({"options": {"isa": "sse9"}}, r"isa: expected scalar, avx2, avx512 or amx, got 'sse9'"),
        (
            {"precision": "int8"},
            r"^precision: native has int8 where export measured it, got no native\.int8 in ",
        ),
    ],
)
def test_what_native_does_not_have_is_refused(bundle: Bundle, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        create_backend(with_nothing_measured(bundle), "native", **asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spinn": True}, r"^options: native has spin, isa, unchecked, got 'spinn'$"),
        ({"spin": 1}, r"^options\.spin: expected true or false, got 1$"),
        ({"isa": 512}, r"^options\.isa: expected text, got 512$"),
        ({"unchecked": "yes"}, r"^options\.unchecked: expected true or false, got 'yes'$"),
    ],
)
def test_options_that_cannot_be_are_config_errors(bundle: Bundle, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_backend(bundle, "native", options=options)


def with_nothing_measured(bundle: Bundle) -> Bundle:
    return dataclasses.replace(bundle, parity={k: v for k, v in bundle.parity.items() if k != "native"})


def test_auto_takes_the_backend_that_has_what_was_asked_for(bundle: Bundle) -> None:
    said = create_backend(bundle, precision="bf16").describe()
    assert (said["backend"], said["precision"]) == ("native", "bf16")
    assert said["why"].startswith("auto: native: it runs this model; isa ")
    assert create_backend(bundle, options={"isa": "scalar"}).describe()["backend"] == "native"
    assert create_backend(bundle, "auto", options={"spin": False}).describe()["spin"] is False


def test_rows_to_compare_precisions_by_are_scored_in_each(bundle: Bundle) -> None:
    rows = rows_of_all_precisions(bundle, 300, 0)
    wide = create_backend(bundle, "native").run(rows)
    for precision in ("bf16", "int8"):
        assert bundle.native[precision]["domain"]
        backend = create_backend(bundle, "native", precision, options={"unchecked": True})
        off = np.abs(backend.run(rows) - wide)
        assert backend.describe()["outside_rows"] == 0
        assert np.count_nonzero(off.max(axis=1) == 0) < 30, precision  # in fp32 too they would be the same bits


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        ({"offered": True, "max_abs": 0.01, "delta_auc": 0.0002}, None),
        (
            {"offered": False, "max_abs": 0.031, "delta_auc": 0.0002},
            r"precision: native int8 is not offered by this bundle, .*parity\.json: max_abs 0\.031, allowed 0\.02\b",
        ),
        ({"offered": False, "max_abs": 0.03, "delta_auc": 0.5}, r"allowed 0\.02, delta_auc 0\.5, allowed 0\.001(;|$)"),
        ({"offered": False, "max_abs": 0.01, "delta_auc": None}, r"parity\.json: delta_auc was not measured(;|$)"),
    ],
)
def test_int8_runs_where_the_export_offers_it(bundle: Bundle, measured: dict[str, object], message: str | None) -> None:
    domain = bundle.native["int8"]["domain"]
    given = with_int8(bundle, measured | {"domain": domain})
    if message is None:
        assert create_backend(given, "native", "int8").describe()["precision"] == "int8"
        assert create_backend(given, precision="int8").describe()["backend"] == "native"
        return
    for backend in ("native", "auto"):
        with pytest.raises(BackendError, match=message):
            create_backend(given, backend, "int8")
    said = create_backend(given, "native", "int8", options={"unchecked": True}).describe()
    assert said["precision"] == "int8"


def test_weights_that_are_not_finite_are_refused_where_hashes_are_not_read(toy_bundle: Path, tmp_path: Path) -> None:
    for value, what in ((np.nan, "NaN"), (-np.inf, "infinity")):
        path = tmp_path / what
        shutil.copytree(toy_bundle, path)
        tensors = load_file(path / "dense.safetensors")
        tensors["experts.1.w"][2, 5, 3] = value
        save_file(tensors, path / "dense.safetensors")
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["files"] = {k: v for k, v in describe_files(path).items() if k != "manifest.json"}
        (path / "manifest.json").write_text(json.dumps(manifest))
        for backend in ("native", "auto"):
            message = r"dense\.safetensors: experts\.1\.w: expected finite values, got "
            with pytest.raises(BundleError, match=message):
                Engine.load(path, backend=backend, check="sizes")


@pytest.mark.usefixtures("no_gpu")
def test_a_plan_is_what_is_loaded(bundle: Bundle) -> None:
    for given, settings in (
        (bundle, Settings()),
        (bundle, Settings("bf16")),
        (bundle, Settings(device="auto")),
    ):
        way, planned = plan(given, "auto", settings)[0]
        said = create_backend(given, "auto", settings.precision, device=settings.device).describe()
        assert (said["backend"], said["device"]) == (way.backend, planned.device)
        assert said["why"].startswith(planned.why)


def test_a_call_costs_little_beside_the_kernels(toy_bundle: Path) -> None:
    def median_us(call: Callable[[], object]) -> float:
        times = []
        for _ in range(1000):
            begin = perf_counter_ns()
            call()
            times.append(perf_counter_ns() - begin)
        return statistics.median(times) / 1000

    bundle = Bundle.open(toy_bundle, "sizes")
    engine, model = clocked_engine(bundle, 1)
    with engine:
        given = normal_inputs(engine.bundle.config.inputs, 1, 0)
        general, domain, prior = given.general, given.domain, given.prior
        rounds = [
            median_us(lambda: engine.score_dense(general, domain, prior))
            - median_us(lambda: model.run(general, domain, prior, 1, True, False))
            for _ in range(7)
        ]
    assert min(rounds) <= 15.0  # the quietest round: other processes only add


def test_inputs_that_the_kernels_would_misread_are_refused(bundle: Bundle) -> None:
    backend = create_backend(bundle, "native", threads=1)
    good = normal_inputs(bundle.config.inputs, 4, 0)
    for change in (
        {"general": good.general[:, :-1].copy()},
        {"domain": good.domain[:3]},
        {"prior": good.prior.astype(np.float64)},
        {"general": np.asfortranarray(good.general)},
    ):
        wrong: Inputs = dataclasses.replace(good, **change)
        with pytest.raises((TypeError, ValueError)):
            backend.run(wrong)
