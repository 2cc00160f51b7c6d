"""The native dense part, by every table of kernels usable here, against the formulas in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_networks import PRODUCT, TASKS, Flags, config_of, inputs_of, tensors_of

from pepnet_infer import _kernels
from pepnet_infer.network.network import Network
from pepnet_infer.schema.network_config import ModelConfig

pytestmark = pytest.mark.parity

Reference = Callable[..., np.ndarray]

TABLES = [(entry["isa"], entry["precision"]) for entry in _kernels.isas() if entry["usable"]]
FP32 = [table for table in TABLES if table[1] == "fp32"]
#: Root mean square and largest difference of scores. These small networks have large weights: logits spread over
#: several units, and a rounding shows.
TOLERANCES = {"fp32": (1e-6, 5e-6), "bf16": (1e-2, 4e-2), "int8": (3e-2, 2e-1)}


def model_of(config: ModelConfig, table: tuple[str, str], tasks: int = TASKS, **options: Any) -> _kernels.DenseModel:
    network = Network.derived(config, tasks).to_native()
    return _kernels.DenseModel(tensors_of(config, tasks), network, *table, **options)


def agree(
    config: ModelConfig, table: tuple[str, str], reference: Reference, rows: int = 33, tasks: int = TASKS
) -> None:
    inputs = inputs_of(config, rows)
    expected = reference(config, tensors_of(config, tasks), *inputs)
    difference = np.abs(model_of(config, table, tasks).run(*inputs) - expected)
    rms, most = TOLERANCES[table[1]]
    assert difference.shape == (rows, tasks)
    assert np.sqrt(np.mean(difference**2)) <= rms
    assert difference.max() <= most


@pytest.mark.parametrize("table", TABLES, ids="-".join)
def test_all_64_combinations_of_flags(table: tuple[str, str], reference_scores: Reference) -> None:
    assert len(PRODUCT) == 64
    spread = []
    for flags in PRODUCT:
        config = config_of(flags, gate_hidden=None if flags[3] else 14)
        agree(config, table, reference_scores)
        spread.append(reference_scores(config, tensors_of(config), *inputs_of(config, 33)).std(axis=0).min())
    assert min(spread) > 0.02, "scores that hardly vary would hide an error"


def rounded_to_bf16(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("table", [table for table in TABLES if table[1] == "bf16"], ids="-".join)
def test_widened_bf16_is_exact_for_rounded_weights(table: tuple[str, str], reference_scores: Reference) -> None:
    for flags in PRODUCT:
        config = config_of(flags)
        model = model_of(config, table)
        if model.describe()["activation"] != "f32":
            pytest.skip("this table rounds activations too")
        tensors = tensors_of(config)
        for name in tensors:
            if name.rsplit(".", 1)[1].startswith("w") and not name.startswith("towers."):
                tensors[name] = rounded_to_bf16(tensors[name])
        if config.backbone == "towers":  # the last layer is one column wide and stays in float32
            last = f"experts.{len(config.layers)}.w"
            tensors[last] = tensors_of(config)[last]
        inputs = inputs_of(config, 33)
        difference = np.abs(model.run(*inputs) - reference_scores(config, tensors, *inputs))
        assert difference.max() <= TOLERANCES["fp32"][1]


DEFAULTS: list[Flags] = [("mmoe", "output", "layer", True, True, True), ("towers", "input", "group", True, True, True)]


@pytest.mark.parametrize("table", TABLES, ids="-".join)
@pytest.mark.parametrize("flags", DEFAULTS, ids=["mmoe", "towers"])
def test_widths_that_are_no_multiple_of_anything(
    flags: Flags, table: tuple[str, str], reference_scores: Reference
) -> None:
    for widths in ((1, 1, 1), (3, 1, 17), (17, 65, 3), (65, 3, 1), (64, 16, 32), (130, 33, 47)):
        for layers in ((1,), (16,), (17, 65), (65, 3, 33), (32, 64, 1)):
            for experts, tasks in ((1, 1), (3, 2)):
                config = config_of(flags, widths, layers, experts=experts)
                agree(config, table, reference_scores, rows=5, tasks=tasks)


@pytest.mark.parametrize("table", TABLES, ids="-".join)
@pytest.mark.parametrize("towers", [(), (1,), (33,), (65, 17, 3), (300, 290)])
def test_towers_of_any_depth(towers: tuple[int, ...], table: tuple[str, str], reference_scores: Reference) -> None:
    config = config_of(DEFAULTS[0], towers=towers)  # the last is too large for one thread's chain
    for split in ("rows", "columns"):
        model = model_of(config, table, split=split)
        inputs = inputs_of(config, 19)
        expected = reference_scores(config, tensors_of(config), *inputs)
        assert np.abs(model.run(*inputs, threads=2) - expected).max() <= TOLERANCES[table[1]][1]


@pytest.mark.parametrize("table", TABLES, ids="-".join)
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 15, 16, 17, 31, 33, 255, 1000])
def test_any_number_of_rows(rows: int, table: tuple[str, str], reference_scores: Reference) -> None:
    config = config_of(DEFAULTS[0])
    inputs = inputs_of(config, rows)
    scores = model_of(config, table).run(*inputs, threads=2)
    assert scores.shape == (rows, TASKS)
    assert scores.dtype == np.float32
    if rows > 0:
        expected = reference_scores(config, tensors_of(config), *inputs)
        assert np.abs(scores - expected).max() <= TOLERANCES[table[1]][1]


#: Every way of building a layer: gates on outputs or inputs, shared or not, without general, without gates.
PLANS: list[Flags] = [
    *DEFAULTS,
    ("mmoe", "input", "layer", True, True, True),
    ("mmoe", "output", "group", False, True, True),
    ("towers", "input", "layer", True, False, True),
    ("towers", "output", "group", True, True, False),
]


@pytest.mark.parametrize("table", TABLES, ids="-".join)
@pytest.mark.parametrize("flags", PLANS, ids=lambda flags: "-".join(map(str, flags)))
def test_bits_are_those_of_single_rows_however_the_work_is_split(flags: Flags, table: tuple[str, str]) -> None:
    config = config_of(flags, (70, 5, 7), (90, 40))
    inputs = inputs_of(config, 61)
    plain = model_of(config, table)
    alone = np.concatenate([plain.run(*(x[r : r + 1] for x in inputs)) for r in range(61)])
    for split, block_rows in itertools.product(("auto", "rows", "columns"), (0, 1, 13)):
        model = model_of(config, table, split=split, block_rows=block_rows)
        for threads in (1, 2, 3):
            assert np.array_equal(model.run(*inputs, threads=threads), alone), (split, block_rows, threads)


def test_blocks_of_more_rows_than_there_can_be_are_refused() -> None:
    config = config_of(DEFAULTS[0], (70, 5, 7), (90, 40))
    inputs = inputs_of(config, 3)
    scores = model_of(config, TABLES[0], block_rows=1 << 20).run(*inputs, threads=1)
    assert np.array_equal(scores, model_of(config, TABLES[0]).run(*inputs, threads=1))
    for rows in ((1 << 20) + 1, (1 << 64) - 1):
        with pytest.raises(ValueError, match=f"block_rows: expected at most 1048576, got {rows}"):
            model_of(config, TABLES[0], block_rows=rows)


@pytest.mark.parametrize("table", TABLES, ids="-".join)
@pytest.mark.parametrize("flags", PLANS, ids=lambda flags: "-".join(map(str, flags)))
@pytest.mark.parametrize("runs", [[], [(0, 20)], [(3, 9), (9, 9), (12, 13), (40, 70)], [(0, 70)]], ids=len)
def test_shared_columns_give_the_same_bits(
    flags: Flags, runs: list[tuple[int, int]], table: tuple[str, str], reference_scores: Reference
) -> None:
    config = config_of(flags, (70, 5, 7), (90, 40))
    general, domain, prior = inputs_of(config, 21)
    domain[:] = domain[0]
    for begin, end in runs:
        general[:, begin:end] = general[0, begin:end]
    plainly = model_of(config, table, shared=([], [(0, 5)], []))
    expected = plainly.run(general, domain, prior) if not runs else None
    for split in ("rows", "columns"):
        model = model_of(config, table, shared=(runs, [(0, 5)], []), split=split)
        plain = model.run(general, domain, prior)
        assert expected is None or np.array_equal(plain, expected)
        for threads in (1, 2):
            shared = model.run(general, domain, prior, threads=threads, share=True)
            assert np.array_equal(shared, plain), (split, threads)
    difference = np.abs(plain - reference_scores(config, tensors_of(config), general, domain, prior))
    assert difference.max() <= TOLERANCES[table[1]][1]


def test_shared_columns_are_read_from_the_first_row_alone() -> None:
    config = config_of(DEFAULTS[0], (70, 5, 7))
    general, domain, prior = inputs_of(config, 9)
    general[:, 4:30] = general[0, 4:30]
    model = model_of(config, FP32[-1], shared=([(4, 30)], [(0, 5)], []))
    expected = model.run(general, np.repeat(domain[:1], 9, axis=0), prior)
    assert np.array_equal(model.run(general, domain, prior, share=True), expected)
    assert not np.array_equal(model.run(general, domain, prior), expected)


@pytest.mark.parametrize("table", TABLES, ids="-".join)
@pytest.mark.parametrize("flags", PLANS, ids=lambda flags: "-".join(map(str, flags)))
def test_nan_and_infinity_stay_in_their_row(flags: Flags, table: tuple[str, str]) -> None:
    config = config_of(flags)
    inputs = inputs_of(config, 40)
    bad = tuple(x.copy() for x in inputs)
    bad[0][3, 1], bad[0][20, 4], bad[0][39, 18] = np.nan, np.inf, -np.inf
    bad[2][8, 2] = np.nan if config.use_ppnet else 0.0
    good = np.setdiff1d(np.arange(40), [3, 20, 39, 8])
    for split, threads in (("rows", 1), ("rows", 2), ("columns", 2)):
        model = model_of(config, table, split=split, block_rows=16)
        clean, dirty = model.run(*inputs, threads=threads), model.run(*bad, threads=threads)
        assert np.array_equal(clean[good], dirty[good])
        assert np.isnan(dirty[3]).all()  # general reaches every score
        assert not config.use_ppnet or np.isnan(dirty[8]).all()
        assert np.isfinite(clean).all()


@pytest.mark.parametrize("table", TABLES, ids="-".join)
@pytest.mark.parametrize("flags", PLANS, ids=lambda flags: "-".join(map(str, flags)))
def test_what_a_call_leaves_in_its_scratch_is_not_read(flags: Flags, table: tuple[str, str]) -> None:
    # 40 columns are three panels, and a step of bf16 or int8 deeper than the padding of the last.
    config = config_of(flags, (40, 5, 7), (40, 40, 9))
    inputs = inputs_of(config, 40)
    nowhere = tuple(np.full_like(x, np.nan) for x in inputs)
    for split in ("rows", "columns"):
        model = model_of(config, table, split=split, block_rows=16)
        fresh = model.run(*inputs)
        assert np.isnan(model.run(*nowhere)).all()
        assert np.array_equal(model.run(*inputs), fresh)


@pytest.mark.parametrize("split", ["rows", "columns"])
def test_a_million_rows_take_no_more_memory_than_a_block(split: str) -> None:
    config = config_of(DEFAULTS[0], (3, 1, 2), (5,), experts=2)
    model = model_of(config, FP32[-1], tasks=2, split=split)
    inputs = inputs_of(config, 1_000_003)
    scores = model.run(*inputs, threads=2)
    assert model.memory_bytes < 32 << 20
    for begin in (0, 499_990, 999_990):
        assert np.array_equal(scores[begin : begin + 13], model.run(*(x[begin : begin + 13] for x in inputs)))


def test_the_tables_that_ran() -> None:
    """Prints them: a table that is skipped is seen."""
    print("native tables:", ", ".join("-".join(table) for table in TABLES))
    assert ("scalar", "fp32") in TABLES
