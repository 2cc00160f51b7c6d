"""Weights and rows that can overflow float32 are refused; what passes gives numbers, whatever the precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_networks import reading

from pepnet_infer import _kernels
from pepnet_infer.bundle.bundle import Bundle, check_payload
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.bundle.magnitude import NUMBER, Bounds, check_magnitudes, input_bounds
from pepnet_infer.errors import BundleError
from pepnet_infer.network.network import Network
from pepnet_infer.schema.network_config import BACKBONES, GATE_POSITIONS, GATE_SCOPES, InputWidths, ModelConfig
from pepnet_infer.storage.tensorfile import from_bfloat16, to_bfloat16

TASKS = 2
Dense = dict[str, npt.NDArray[np.float32]]


def network(**flags: Any) -> tuple[ModelConfig, Dense]:
    config = reading(InputWidths(19, 5, 7), layers=(17, 9), towers=(6,), experts=3, **flags)
    random = np.random.default_rng(1)
    shapes = Network.derived(config, TASKS).tensors
    return config, {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def bounds(largest: float) -> dict[str, Bounds]:
    return {"general": np.full(19, largest), "domain": np.full(5, largest), "prior": np.full(7, largest)}


def refused(config: ModelConfig, dense: Dense, largest: float) -> str | None:
    try:
        check_magnitudes("weights", Network.derived(config, TASKS), dense, bounds(largest))
    except BundleError as error:
        return str(error)
    return None


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("position", GATE_POSITIONS)
@pytest.mark.parametrize("scope", GATE_SCOPES)
def test_what_passes_scores_the_largest_inputs_as_numbers(backbone: str, position: str, scope: str) -> None:
    """Every tensor in turn is made as large as passes, and is refused when it is ten times as large."""
    config, dense = network(backbone=backbone, gate_position=position, gate_scope=scope)
    random = np.random.default_rng(2)
    rows = [np.where(random.random((64, width)) < 0.5, -1, 1).astype(np.float32) for width in (19, 5, 7)]
    rows = [np.vstack([np.ones((1, x.shape[1]), np.float32), x]) * np.float32(1e4) for x in rows]
    for name in dense:
        wide = {e: (dense[name].astype(np.float64) * 10.0**e).clip(-3e38, 3e38) for e in range(16, 39)}
        exponent = max((e for e, tensor in wide.items() if not refused(config, dense | {name: tensor}, 1e4)), default=0)
        assert exponent > 15, "a network far from the limit passes"
        largest = dense | {name: (dense[name] * 10.0**exponent).astype(np.float32)}
        for precision in ("fp32", "bf16", "int8"):
            model = _kernels.DenseModel(largest, Network.derived(config, TASKS).to_native(), "auto", precision)
            scores = model.run(*rows)
            assert ((scores >= 0) & (scores <= 1)).all(), (name, precision)


@pytest.mark.parametrize("tensor", ["epnet.gate.w1", "ppnet.1.gate.w2", "experts.1.w", "mix.w", "towers.1.w"])
def test_the_tensor_that_is_too_large_is_named(tensor: str) -> None:
    config, dense = network()
    dense[tensor] *= np.float32(1e36)
    message = refused(config, dense, NUMBER)
    assert message is not None
    assert f"weights: tensor '{tensor}': sums: expected numbers below 1e+38, so that float32 cannot overflow" in message


def test_inputs_too_large_by_themselves_are_named() -> None:
    config, dense = network()
    assert "columns of general: expected numbers below 1e+38" in str(refused(config, dense, 2e38))
    small = {name: value * np.float32(1e-10) for name, value in dense.items()}
    assert "operation 'o': expected numbers below 1e+38" in str(refused(config, small, 9e37))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_table_knows_its_largest_numbers(toy_checkpoint: Checkpoint, tmp_path: Path, dtype: str) -> None:
    toy_checkpoint.write_payload(tmp_path, dtype)
    derived = Network.derived(toy_checkpoint.config, len(toy_checkpoint.schema.tasks))
    for values in (True, False):
        tables = check_payload(tmp_path, toy_checkpoint.schema, derived, values)
        for name, table in toy_checkpoint.tables.items():
            rows = from_bfloat16(to_bfloat16(table.rows)) if dtype == "bfloat16" else table.rows
            expected = np.maximum(np.abs(rows).max(axis=0), np.abs(table.default))
            found = tables[name].largest
            assert found is None if not values else np.array_equal(found, expected)


def test_rows_that_can_overflow_are_not_exported(toy_checkpoint: Checkpoint, tmp_path: Path) -> None:
    rows = toy_checkpoint.tables["user"].rows
    before = rows[3, 2]
    rows[3, 2] = 3e37
    try:
        with pytest.raises(BundleError, match=r"dense\.safetensors: .*so that float32 cannot overflow"):
            toy_checkpoint.write_payload(tmp_path, "float32")
    finally:
        rows[3, 2] = before


def test_the_bound_of_a_summed_bag_counts_its_rows(toy_bundle: Path) -> None:
    bundle = Bundle.open(toy_bundle)
    largest = {name: table.largest for name, table in bundle.tables.items() if table.largest is not None}
    one = input_bounds(bundle.schema, largest)["general"]
    slots = {slot.field.name: slot for slot in bundle.schema.layout["general"]}
    tags, watched = slots["tags"], slots["watched"]
    assert (one[tags.offset : tags.offset + tags.width] == 1e4 * NUMBER).all()
    assert (one[watched.offset : watched.offset + watched.width] == NUMBER).all()
