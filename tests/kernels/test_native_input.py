"""What the native dense part refuses, and how it says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from msgspec import structs

from pepnet_infer import _kernels
from pepnet_infer.network.network import Network
from pepnet_infer.schema.network_config import InputWidths, ModelConfig

pytestmark = pytest.mark.hostile

SHAPES: dict[str, tuple[int, ...]] = {
    "epnet.gate.w1": (6, 3),
    "epnet.gate.b1": (3,),
    "epnet.gate.w2": (3, 4),
    "epnet.gate.b2": (4,),
    "ppnet.0.gate.w1": (7, 3),
    "ppnet.0.gate.b1": (3,),
    "ppnet.0.gate.w2": (3, 5),
    "ppnet.0.gate.b2": (5,),
    "experts.0.w": (2, 4, 5),
    "experts.0.b": (2, 5),
    "mix.w": (4, 4),
    "mix.b": (4,),
    "towers.0.w": (2, 5, 1),
    "towers.0.b": (2, 1),
}


def tensors() -> dict[str, npt.NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in SHAPES.items()}


CONFIG = ModelConfig(InputWidths(4, 2, 3), layers=(5,), towers=(), experts=2, gate_hidden=3)


def network(config: ModelConfig = CONFIG, tasks: int = 2) -> _kernels.Network:
    return Network.derived(config, tasks).to_native()


def model(precision: str = "fp32", **changed: Any) -> _kernels.DenseModel:
    return _kernels.DenseModel(tensors(), network(structs.replace(CONFIG, **changed)), "scalar", precision)


def inputs(rows: int = 3) -> dict[str, npt.NDArray[np.float32]]:
    return {name: np.zeros((rows, width), np.float32) for name, width in (("general", 4), ("domain", 2), ("prior", 3))}


@pytest.mark.parametrize("name", ["general", "domain", "prior"])
def test_inputs_of_a_wrong_kind_are_named(name: str) -> None:
    loaded, good = model(), inputs()
    assert loaded.run(**good).shape == (3, 2)
    width = good[name].shape[1]
    shape = rf"\[{'rows' if name == 'general' else 3}, {width}\]"
    with pytest.raises(TypeError, match=rf"^{name}: expected float32, got float64 \[3, {width}\]"):
        loaded.run(**(good | {name: good[name].astype(np.float64)}))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=rf"^{name}: expected float32, got >f4"):
        loaded.run(**(good | {name: good[name].astype(">f4")}))
    with pytest.raises(ValueError, match=rf"^{name}: expected {shape}, got float32 \[3, {width + 1}\]"):
        loaded.run(**(good | {name: np.zeros((3, width + 1), np.float32)}))
    with pytest.raises(ValueError, match=rf"^{name}: expected {shape}, got float32 \[{3 * width}\]"):
        loaded.run(**(good | {name: good[name].ravel()}))
    with pytest.raises(ValueError, match=rf"^{name}: .*without gaps, got float32 \[3, {width}\] with gaps"):
        loaded.run(**(good | {name: np.zeros((3, 2 * width), np.float32)[:, ::2]}))
    unaligned = np.zeros(4 * 3 * width + 1, np.uint8)[1:].view(np.float32).reshape(3, width)
    with pytest.raises(ValueError, match=rf"^{name}: expected aligned rows"):
        loaded.run(**(good | {name: unaligned}))


def test_inputs_must_have_the_same_rows() -> None:
    with pytest.raises(ValueError, match=r"^prior: expected \[3, 3\], got float32 \[2, 3\]"):
        model().run(**(inputs() | {"prior": np.zeros((2, 3), np.float32)}))


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_are_refused(threads: int) -> None:
    with pytest.raises(ValueError, match=f"^threads: expected at least 1, got {threads}"):
        model().run(**inputs(), threads=threads)


def test_no_rows_and_many_threads_are_fine() -> None:
    assert model().run(**inputs(0), threads=5).shape == (0, 2)
    assert model().run(**inputs(2), threads=10**9).shape == (2, 2)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused(name: str, value: float, precision: str) -> None:
    bad = tensors()
    bad[name].flat[-1] = value
    with pytest.raises(
        ValueError, match=rf"^{name}: expected finite values, got -?(nan|inf) at {bad[name].size - 1} of "
    ):
        _kernels.DenseModel(bad, network(), "scalar", precision)


def test_a_weight_beyond_bf16_is_refused() -> None:
    bad = tensors()
    bad["experts.0.w"][1, 2, 3] = np.finfo(np.float32).max
    _kernels.DenseModel(bad, network(), "scalar", "fp32")
    with pytest.raises(ValueError, match=r"^experts\.0\.w: expected values that bf16 can hold, got 34028234"):
        _kernels.DenseModel(bad, network(), "scalar", "bf16")


@pytest.mark.parametrize("name", SHAPES)
def test_a_missing_tensor_is_named(name: str) -> None:
    left = {key: value for key, value in tensors().items() if key != name}
    with pytest.raises(ValueError, match=f"^tensors: expected '{name}', which is missing"):
        _kernels.DenseModel(left, network())


@pytest.mark.parametrize("name", SHAPES)
def test_a_tensor_of_another_shape_is_named(name: str) -> None:
    bad = tensors()
    bad[name] = np.zeros((*SHAPES[name], 1), np.float32)
    with pytest.raises(ValueError, match=rf"^{name}: expected shape \[.*\], got \[.*, 1\]"):
        _kernels.DenseModel(bad, network())
    bad[name] = np.zeros(SHAPES[name], np.float64)  # type: ignore[assignment]
    with pytest.raises(TypeError, match=rf"^{name}: expected a float32 array, got float64"):
        _kernels.DenseModel(bad, network())


def test_a_tensor_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^tensors: 'towers.1.w' is not one that the network reads"):
        _kernels.DenseModel(tensors() | {"towers.1.w": np.zeros((2, 1, 1), np.float32)}, network())
    with pytest.raises(ValueError, match=r"^tensors: 'epnet.gate.b1' is not one"):
        model(use_epnet=False)
    _kernels.DenseModel(tensors() | {"nothing": np.zeros((2, 0, 1), np.float32)}, network())


@pytest.mark.parametrize("hidden", [None, 9])
def test_tensors_of_another_network_are_named(hidden: int | None) -> None:
    with pytest.raises(ValueError, match=rf"^epnet\.gate\.w1: expected shape \[6, {hidden or 4}\], got \[6, 3\]"):
        model(gate_hidden=hidden)


def test_a_network_is_one_of_the_extension() -> None:
    with pytest.raises(TypeError):
        _kernels.DenseModel(tensors(), Network.derived(CONFIG, 2))  # type: ignore[arg-type]


def test_int8_refuses_sums_that_could_overflow() -> None:
    shapes = {"experts.0.w": (1, 70000, 1), "experts.0.b": (1, 1), "mix.w": (70000, 1), "mix.b": (1,)}
    shapes |= {"towers.0.w": (1, 1, 1), "towers.0.b": (1, 1)}
    wide = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    config = ModelConfig(InputWidths(70000, 0, 0), layers=(1,), towers=(), experts=1, use_epnet=False, use_ppnet=False)
    changed = network(config, 1)
    assert _kernels.DenseModel(wide, changed, "scalar", "bf16").memory_bytes > 70000 * 2
    with pytest.raises(ValueError, match=r"^(mix|experts\.0)\.w: expected at most 66311 rows for int8.*, got 70016"):
        _kernels.DenseModel(wide, changed, "scalar", "int8")


def test_isa_precision_and_split_by_name() -> None:
    with pytest.raises(ValueError, match=r"^isa: expected scalar, avx2, avx512 or amx, got 'sse9'"):
        _kernels.DenseModel(tensors(), network(), "sse9")
    with pytest.raises(ValueError, match=r"^precision: expected fp32, bf16 or int8, got 'fp8'"):
        _kernels.DenseModel(tensors(), network(), "scalar", "fp8")
    with pytest.raises(ValueError, match=r"^split: expected auto, rows or columns, got 'both'"):
        _kernels.DenseModel(tensors(), network(), split="both")


@pytest.mark.parametrize("runs", [[(2, 1)], [(0, 5)], [(1, 3), (2, 4)]])
def test_runs_of_shared_columns_ascend_within_their_input(runs: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=r"^shared: expected ascending runs within 0 to 4 of general"):
        _kernels.DenseModel(tensors(), network(), shared=(runs, [], []))


def test_none_among_maps_of_files_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^maps: expected a FileMap each, got None"):
        _kernels.all_as_mapped([None])  # type: ignore[list-item]


def test_numbers_and_keys_that_come_back_to_the_sums_they_are_added_to() -> None:
    """Anything may be called by what stands for a number, or compares two keys: sums may move meanwhile."""
    tally, calls = _kernels.Tally(), []

    class Again:
        def __index__(self) -> int:
            calls.append(1)
            tally.add([(name, (1,)) for name in range(100)])
            return 2

        def __hash__(self) -> int:
            return hash(5) + 0 * self.__index__()

    tally.add([("a", (1, Again())), (Again(), (3,)), (5, (2**63 - 1,)), (5, (2**63 - 1,))])  # type: ignore[list-item]
    so_far = len(calls)  # to read hashes the key again
    read = tally.read()
    assert read["a"] == (1, 2)
    assert read[5] == (so_far - 2,)  # they go round at 2^63


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (5, r"^items: expected \(key, numbers\) each"),
        (("b", (1,), (2,)), r"^items: expected \(key, numbers\) each"),
        (("b", [1]), "^items: expected a tuple of integers for each key"),
        (("b", (1, 1.5)), "float"),
        (("b", (1, 2**63)), "int too "),
    ],
)
def test_a_wrong_item_refuses_all_that_are_to_be_added(wrong: Any, message: str) -> None:
    tally = _kernels.Tally()
    with pytest.raises((TypeError, OverflowError), match=message):
        tally.add([("a", (1, 2)), wrong])
    assert tally.read() == {}


def test_a_list_that_a_number_of_it_empties_is_added_as_it_was() -> None:
    class Clear:
        def __index__(self) -> int:
            items.clear()
            return 2

    tally, items = _kernels.Tally(), [("a", (Clear(), 3)), ("b", (4,))]
    tally.add(items)  # type: ignore[arg-type]
    assert tally.read() == {"a": (2, 3), "b": (4,)}


def test_a_fetch_without_a_number_is_refused() -> None:
    """Its number is that of an empty place: to end it took entries away that were none."""
    table, keys = _kernels.FlightTable(), np.array([1, 2], np.uint64)
    with pytest.raises(ValueError, match=r"^flight: expected 1 or more, got 0"):
        table.land(keys, 0)
    assert len(table) == 0
