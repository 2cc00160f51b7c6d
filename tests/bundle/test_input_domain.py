"""Narrow precisions outside of the inputs they were measured on: such rows are scored in fp32, and counted."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import to_builtins

from pepnet_infer import BackendError, BundleError, Engine, _kernels
from pepnet_infer.backends.create import create_backend
from pepnet_infer.backends.native import domain_of
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.bundle.input_domain import InputDomain, RowLimits
from pepnet_infer.export.bundle.domains import bf16_domain, request_domain
from pepnet_infer.export.bundle.parity import reference
from pepnet_infer.export.bundle.rows import random_features
from pepnet_infer.export.model.network import build_network, load_dense
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import make_keys
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.schema.network_config import InputWidths
from pepnet_infer.storage.listing import describe_files

Batch = dict[str, Any]
TABLES = [(t["isa"], t["precision"]) for t in _kernels.isas() if t["usable"] and t["precision"] != "fp32"]
NARROW = ("bf16", "int8")
NAMES = ("general", "domain", "prior")


def holds(domain: InputDomain, inputs: Inputs) -> np.ndarray:
    """Returns which rows [B] are inside of a domain; one with NaN is not."""
    inside = np.ones(inputs.num_rows, np.bool_)
    for limits, matrix in zip(domain.limits, inputs.matrices, strict=True):
        wide = matrix.astype(np.float64)
        inside &= (np.abs(wide) <= np.array(limits.largest)).all(axis=1) & (
            np.sqrt((wide**2).sum(axis=1)) <= limits.norm
        )
    return inside


def with_entries(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Changes what parity.json says of bf16 and int8, and lists the file as it is then."""
    parity = json.loads((path / "parity.json").read_text())
    for precision in NARROW:
        change(parity["native"][precision])
    (path / "parity.json").write_text(json.dumps(parity))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["precisions"]["int8"] = {"max_abs": 0.9, "delta_auc": 0.5}
    manifest["files"]["parity.json"] = describe_files(path)["parity.json"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


@pytest.fixture(scope="module")
def offered(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy bundle, which offers int8 whatever it costs."""
    copy = Path(shutil.copytree(toy_bundle, tmp_path_factory.mktemp("int8") / "bundle"))
    return with_entries(copy, lambda entry: entry.__setitem__("offered", True))


@pytest.fixture(scope="module")
def bundle(offered: Path) -> Bundle:
    return Bundle.open(offered)


@pytest.fixture(scope="module", params=NARROW)
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def domain(bundle: Bundle, precision: str) -> InputDomain:
    found = domain_of(bundle, precision)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def mixed(bundle: Bundle, domain: InputDomain) -> Inputs:
    """Rows inside and outside in turn: at the edge; and with one value, or a whole input, that is too large."""
    inputs = domain.edge(normal_inputs(bundle.config.inputs, 320, 5))
    inputs.general[1::8, 3] = 2 * domain.general.largest[3]
    inputs.domain[3::8] *= 4
    inputs.prior[5::8, 0] = -1e4
    inputs.general[7::16, 2] = np.nan
    return inputs


def rows_of(inputs: Inputs, at: Any) -> Inputs:
    return Inputs(*(np.ascontiguousarray(getattr(inputs, name)[at]) for name in NAMES))


# ── the domain itself


def test_a_domain_holds_the_rows_that_it_is_made_of_and_its_edge(bundle: Bundle) -> None:
    rows = normal_inputs(bundle.config.inputs, 200, 1)
    domain = InputDomain.of(rows)
    assert domain.widths == bundle.config.inputs
    assert holds(domain, rows).all()
    edge = domain.edge(normal_inputs(bundle.config.inputs, 200, 2))
    assert holds(domain, edge).all()
    for name in NAMES:
        values, limits = getattr(edge, name).astype(np.float64), getattr(domain, name)
        norms = np.sqrt((values**2).sum(axis=1)) / limits.norm
        spikes = (np.abs(values[1::2]) / np.array(limits.largest)).max(axis=1)
        assert norms[::2].mean() > 0.7
        assert spikes.mean() > 0.9
    assert not holds(domain, Inputs(*(getattr(rows, name) * np.float32(100) for name in NAMES))).any()
    read = InputDomain(**{name: RowLimits(**values) for name, values in to_builtins(domain).items()})
    assert read == domain


def test_export_stores_the_domain_of_what_a_request_may_give(bundle: Bundle, domain: InputDomain) -> None:
    largest = {name: 2.0 * table.largest for name, table in bundle.tables.items() if table.largest is not None}
    assert np.array_equal(domain.domain.largest, largest["page"].astype(np.float32))
    slots = {slot.field.name: slot for slot in bundle.schema.layout["general"]}
    for name in ("duration", "age"):
        assert 6.0 < domain.general.largest[slots[name].offset] < 12.0, "dense values are standard normal"
    for field, table in (("user_id", "user"), ("video_id", "video"), ("watched", "video")):
        place = slice(slots[field].offset, slots[field].offset + slots[field].width)
        assert np.array_equal(domain.general.largest[place], largest[table].astype(np.float32))


def test_inputs_without_columns_have_a_domain_of_nothing() -> None:
    none = np.zeros((3, 0), np.float32)
    domain = InputDomain.of(Inputs(np.ones((3, 2), np.float32), none, none))
    assert domain.domain == RowLimits((), 0.0)
    assert holds(domain, Inputs(np.ones((3, 2), np.float32), none, none)).all()
    assert domain.edge(Inputs(np.ones((3, 2), np.float32), none, none)).prior.shape == (3, 0)


def test_dense_values_are_drawn_within_the_range_that_training_saw(toy_schema: FeatureSchema) -> None:
    keys = {table.name: make_keys(table.number, np.arange(5, dtype=np.uint64)) for table in toy_schema.tables}
    drawn = random_features(toy_schema, keys, 2000, 1, {"age": (-0.5, 40.0)})
    age = drawn.dense["age"]
    assert (age.min(), age.max()) == (-0.5, 40.0)
    assert 20 < np.count_nonzero(age > 5.0) < 200, "some lie far from the mean"
    assert 3.0 < drawn.dense["duration"].max() < 6.0, "nobody recorded a range"
    assert random_features(toy_schema, keys, 1, 1, {"age": (-0.5, 40.0)}).dense["age"] == -0.5


def test_standard_normal_rows_belong_to_the_domain_where_requests_are_as_long(toy_schema: FeatureSchema) -> None:
    widths = InputWidths(**toy_schema.widths)
    normal = normal_inputs(widths, 500, 3)
    largest = {table.name: np.full(table.dim, 0.25) for table in toy_schema.tables}
    tags = next(slot.offset for slot in toy_schema.layout["general"] if slot.field.name == "tags")
    for times, inside in ((0.95, True), (0.5, False)):
        rows = Inputs(*(getattr(normal, name) * np.float32(times) for name in NAMES))
        domain = request_domain(toy_schema, rows, normal, largest)
        assert holds(domain, rows).all()
        assert holds(domain, normal).all() == inside
    small = Inputs(*(np.zeros((2, getattr(widths, name)), np.float32) for name in NAMES))
    limits = np.array(request_domain(toy_schema, small, normal, largest).general.largest)
    assert (limits[:tags] == 0.5).all(), "rows of tables, drawn or not"
    assert (limits[tags:] == 0).all(), "a sum is as large as those that were drawn, and so is a number"


def test_bf16s_domain_is_as_wide_as_its_budget(bundle: Bundle) -> None:
    rows = normal_inputs(bundle.config.inputs, 400, 4)
    base = InputDomain.of(rows)
    off = error_at(bundle, base)

    def found(most: float) -> InputDomain:
        return bf16_domain(bundle, base, rows, {"max_abs": most, "rms": most}, 7)

    assert found(1e3) == base.scaled(4.0, 4.0)
    assert found(off) == base, "over its budget by less than the margin"
    between = found(2.5 * off)
    assert base.general.norm <= between.general.norm < 4.0 * base.general.norm
    assert 1.5 * error_at(bundle, between) <= 2.5 * off
    least = found(1e-9)
    assert least.general.largest == base.general.largest
    assert 0.96 < holds(least, rows).mean() < 1.0, "the longest rows are left out"
    none = rows_of(rows, slice(0, 0))
    assert bf16_domain(bundle, base, none, {"max_abs": 1.0, "rms": 1.0}, 7) == base


def error_at(bundle: Bundle, domain: InputDomain) -> float:
    """How much bf16 is off at the edge of a domain, on the instruction set where most."""
    edge = domain.edge(normal_inputs(bundle.config.inputs, 400, 7))
    bare = dataclasses.replace(bundle, parity={})
    isas = [isa for isa, precision in TABLES if precision == "bf16" and isa != "scalar"]
    options = [{"isa": isa, "unchecked": True} for isa in isas]
    narrow, wide = ([create_backend(bare, "native", p, options=o).run(edge) for o in options] for p in ("bf16", "fp32"))
    return max(float(np.abs(a - b).max()) for a, b in zip(narrow, wide, strict=True))


# ── scores


@pytest.mark.parametrize("isa", dict.fromkeys(isa for isa, _ in TABLES))
def test_rows_outside_are_scored_in_fp32_and_those_inside_are_not(
    bundle: Bundle, precision: str, domain: InputDomain, mixed: Inputs, isa: str
) -> None:
    if (isa, precision) not in TABLES:
        pytest.skip(f"no {precision} on {isa} here")
    options = {"isa": isa}
    narrow, wide = (create_backend(bundle, "native", p, threads=1, options=options) for p in (precision, "fp32"))
    inside = holds(domain, mixed)
    assert 0.5 < inside.mean() < 0.6
    scores = narrow.run(mixed)
    assert np.array_equal(scores[~inside], wide.run(rows_of(mixed, ~inside)), equal_nan=True)
    assert narrow.describe()["outside_rows"] == (~inside).sum()
    network = build_network(bundle.config, len(bundle.tasks))
    load_dense(network, bundle.dense())
    off = np.abs(scores - reference(network, mixed).scores)
    assert 1e-4 < off[inside].max() <= bundle.native[precision]["max_abs"]
    numbers = ~inside & np.isfinite(mixed.general).all(axis=1)
    assert off[numbers].max() <= 5e-6
    assert np.isnan(scores[7::16]).all()


@pytest.mark.parametrize("isa", dict.fromkeys(isa for isa, _ in TABLES))
@pytest.mark.parametrize("threads", [1, 3])
def test_scores_do_not_depend_on_how_a_batch_is_split(
    bundle: Bundle, precision: str, mixed: Inputs, isa: str, threads: int
) -> None:
    if (isa, precision) not in TABLES:
        pytest.skip(f"no {precision} on {isa} here")
    options = {"isa": isa, "spin": False}
    backend = create_backend(bundle, "native", precision, threads=threads, options=options)
    whole = backend.run(mixed)
    for size in (1, 7, 64):
        parts = [backend.run(rows_of(mixed, slice(at, at + size))) for at in range(0, 320, size)]
        assert np.array_equal(np.concatenate(parts), whole, equal_nan=True)


@pytest.fixture
def engines(offered: Path, precision: str) -> Iterator[tuple[Engine, Engine]]:
    with (
        Engine.load(offered, backend="native", precision=precision, threads=1) as narrow,
        Engine.load(offered, backend="native", threads=1) as wide,
    ):
        yield narrow, wide


def test_a_dense_feature_far_from_its_mean_is_scored_in_fp32_and_counted(
    engines: tuple[Engine, Engine], toy_batch: Callable[..., Batch]
) -> None:
    narrow, wide = engines
    batch = toy_batch(50, 1)
    batch["age"][:10] = 35.0 + 10.0 * np.linspace(20.0, 200.0, 10)
    got, expected = narrow.score(batch).values, wide.score(batch).values
    assert np.array_equal(got[:10], expected[:10])
    assert not np.array_equal(got[10:], expected[10:]), "the others are not"
    said = narrow.stats()["backend"]
    assert said["outside_rows"] == 10
    assert said["wide_bytes"] == wide.stats()["backend"]["packed_bytes"]
    assert list(said["domain"]) == ["general", "domain", "prior"]
    assert "pepnet_outside_rows_total 10.0\n" in narrow.metrics()
    assert "outside_rows" not in wide.stats()["backend"]
    items = {name: column for name, column in toy_batch(5).items() if name in ("video_id", "tags", "duration")}
    user = {"user_id": 7, "watched": [1, 2], "age": 2000.0}
    assert np.array_equal(narrow.rank(user, items, 1).values, wide.rank(user, items, 1).values)
    assert narrow.stats()["backend"]["outside_rows"] == 15


def test_a_row_that_an_update_made_wide_is_scored_in_fp32(
    engines: tuple[Engine, Engine], toy_batch: Callable[..., Batch]
) -> None:
    batch = toy_batch(20, 1)
    batch["user_id"][:] = np.arange(20)
    for engine in engines:
        assert engine.cache is not None
        engine.cache.apply("user", [3], np.full((1, 6), 40.0, np.float32), np.array([1 << 40], np.uint64))
    narrow, wide = engines
    assert np.array_equal(narrow.score(batch).values[3], wide.score(batch).values[3])
    assert narrow.stats()["backend"]["outside_rows"] == 1


def test_matrices_are_held_to_the_domain_too(engines: tuple[Engine, Engine], mixed: Inputs) -> None:
    narrow, wide = engines
    given = [getattr(mixed, name)[1:2] for name in NAMES]
    assert np.array_equal(narrow.score_dense(*given), wide.score_dense(*given))
    assert narrow.stats()["backend"]["outside_rows"] == 1


# ── what is refused


def test_a_domain_of_other_columns_is_refused(offered: Path, tmp_path: Path, precision: str) -> None:
    def shorten(entry: dict[str, Any]) -> None:
        entry["domain"]["prior"]["largest"].pop()

    copy = with_entries(Path(shutil.copytree(offered, tmp_path / "bundle")), shorten)
    message = rf"parity\.json: native\.{precision}\.domain: expected limits of .*prior=11"
    with pytest.raises(BundleError, match=message):
        Engine.load(copy, backend="native", precision=precision)


def test_a_precision_without_a_domain_is_not_there(offered: Path, tmp_path: Path, precision: str) -> None:
    copy = with_entries(Path(shutil.copytree(offered, tmp_path / "bundle")), lambda entry: entry.pop("domain"))
    message = rf"native {precision} needs the domain that export measured, got none in .*parity"
    with pytest.raises(BackendError, match=message):
        Engine.load(copy, backend="native", precision=precision)
    with Engine.load(copy, backend="native", precision=precision, options={"unchecked": True}) as engine:
        assert "domain" not in engine.stats()["backend"]


def test_scores_of_another_domain_have_another_identity(offered: Path, tmp_path: Path, precision: str) -> None:
    def widen(entry: dict[str, Any]) -> None:
        entry["domain"]["general"]["norm"] *= 2

    copy = with_entries(Path(shutil.copytree(offered, tmp_path / "bundle")), widen)

    def identity(path: Path, precision: str) -> dict[str, Any]:
        with Engine.load(path, backend="native", precision=precision, check="sizes") as engine:
            return engine.identity()

    before, after = identity(offered, precision), identity(copy, precision)
    assert {name for name in before if before[name] != after[name]} == {"domain"}
    assert identity(offered, "fp32") == identity(copy, "fp32")


def test_newer_weights_are_measured_before_int8_takes_them(bundle: Bundle) -> None:
    dense = bundle.dense()
    create_backend(bundle.with_dense(dense, None, 9), "native", "int8", threads=1)
    worse = {name: value * np.float32(30) if name.startswith("experts") else value for name, value in dense.items()}
    with pytest.raises(BackendError, match=r"int8 of the weights of version 9 is off by up to [\d.]+ of fp32, allowed"):
        create_backend(bundle.with_dense(worse, None, 9), "native", "int8", threads=1)
    create_backend(bundle.with_dense(worse, None, 9), "native", "fp32", threads=1)
