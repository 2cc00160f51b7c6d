"""What the cuda kernels must do, whatever runs them: a GPU, or the CPU thread by thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from small_networks import PRODUCT, TASKS, config_of, inputs_of, tensors_of

from pepnet_infer._kernels import CudaLibrary, CudaModel
from pepnet_infer.network.network import Network
from pepnet_infer.schema.network_config import ModelConfig

if TYPE_CHECKING:  # of the package this file needs no more than a machine with a GPU may have
    from pepnet_infer.backends.cuda.backend import CudaBackend

Reference = Callable[..., np.ndarray]

#: Root mean square and largest difference of scores, by precision. These networks have large weights.
TOLERANCES = {"fp32": (1e-6, 5e-6), "bf16": (2.5e-3, 2e-2)}
#: How much of a product a block makes: kernels/cuda/shape.h.
TILES = ("few", "middle", "many", "wide")


class Bundle:
    """What the backend reads of a bundle."""

    path = Path("bundle")
    tasks = ("a", "b", "c")
    config = config_of()

    @property
    def network(self) -> Network:
        return Network.derived(self.config, len(self.tasks))

    def dense(self) -> dict[str, np.ndarray]:
        return tensors_of(self.config)


def model_of(
    library: CudaLibrary,
    config: ModelConfig,
    precision: str,
    tasks: int = TASKS,
    graphs: bool = True,
    tile: str | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    gpu: int = 0,
) -> CudaModel:
    weights = tensors_of(config, tasks) if tensors is None else tensors
    network = Network.derived(config, tasks).to_native()
    return CudaModel(library, weights, network, precision == "bf16", gpu, graphs, tile)


def agree(
    library: CudaLibrary,
    config: ModelConfig,
    precision: str,
    reference: Reference,
    rows: int,
    tasks: int = TASKS,
) -> float:
    """Compares with float64. Returns how much scores vary at least: where they hardly do an error would hide."""
    inputs = inputs_of(config, rows)
    expected = reference(config, tensors_of(config, tasks), *inputs)
    difference = np.abs(model_of(library, config, precision, tasks).run(*inputs) - expected)
    rms, most = TOLERANCES[precision]
    assert difference.shape == (rows, tasks)
    assert np.sqrt(np.mean(difference**2)) <= rms, (config, precision)
    assert difference.max() <= most, (config, precision)
    return float(expected.std(axis=0).min())


def all_flags(library: CudaLibrary, precision: str, reference: Reference, rows: int) -> None:
    assert len(PRODUCT) == 64
    spread = []
    for flags in PRODUCT:
        spread.append(
            agree(library, config_of(flags, gate_hidden=None if flags[3] else 14), precision, reference, rows)
        )
    assert min(spread) > 0.02


def several_tiles(library: CudaLibrary, precision: str, reference: Reference) -> None:
    """Widths over a tile, and not a multiple of one; one expert, one task, no towers, two of them."""
    wide = {"widths": (100, 3, 70), "layers": (130, 65), "gate_hidden": 66}
    for flags in (PRODUCT[0], PRODUCT[4], PRODUCT[10], PRODUCT[-1]):
        agree(library, config_of(flags, **wide), precision, reference, 65)
    agree(library, config_of(experts=1, towers=()), precision, reference, 3, tasks=1)
    for general in (610, 612):  # more columns than a block copies, in ones and in fours
        agree(library, config_of(widths=(general, 4, 9), gate_hidden=5), precision, reference, 6)
    agree(library, config_of(towers=(70, 5)), precision, reference, 3)
    agree(library, config_of(experts=40, layers=(8,)), precision, reference, 3, tasks=5)


def tiles_have_the_same_bits(
    library: CudaLibrary, precision: str, reference: Reference, counts: tuple[int, ...]
) -> None:
    """However much of a product a block makes: right, and the same to the bit. With gates in one pass and without."""
    for flags in (PRODUCT[0], PRODUCT[8]):
        config = config_of(flags, widths=(70, 3, 7), layers=(130,), gate_hidden=66, experts=2)
        inputs = inputs_of(config, max(counts))
        expected = reference(config, tensors_of(config), *inputs)
        models = {tile: model_of(library, config, precision, tile=tile) for tile in TILES}
        for count in counts:
            scores = {tile: model.run(*(x[:count] for x in inputs)) for tile, model in models.items()}
            for tile in TILES:
                np.testing.assert_array_equal(scores[tile], scores["few"], f"{tile}, {count} rows")
            assert np.abs(scores["few"] - expected[:count]).max() <= TOLERANCES[precision][1], (config, count)


def rows_are_alone(library: CudaLibrary, precision: str, counts: tuple[int, ...]) -> None:
    """A row's scores have the same bits in a batch of any size, and with graphs as without."""
    config = config_of(PRODUCT[4])
    inputs = inputs_of(config, max(counts))
    model, plain = model_of(library, config, precision), model_of(library, config, precision, graphs=False)
    whole = model.run(*inputs)
    assert np.isfinite(whole).all()
    for count in counts:
        np.testing.assert_array_equal(model.run(*(x[:count] for x in inputs)), whole[:count])
    np.testing.assert_array_equal(plain.run(*(x[:9] for x in inputs)), whole[:9])
    moved = model.run(*(np.ascontiguousarray(x[1:8]) for x in inputs))
    np.testing.assert_array_equal(moved, whole[1:8])


def logits_far_apart(library: CudaLibrary, reference: Reference) -> None:
    """A softmax that does not begin with the largest overflows."""
    config = config_of()
    tensors, inputs = tensors_of(config), inputs_of(config, 9)
    tensors["mix.w"] *= 100
    got = model_of(library, config, "fp32", tensors=tensors).run(*inputs)
    np.testing.assert_allclose(got, reference(config, tensors, *inputs), atol=1e-4)


def what_is_not_finite_stays_in_its_row(library: CudaLibrary, reference: Reference) -> None:
    """The same scores are NaN as by the formulas, and the others are right."""
    for flags in (PRODUCT[0], PRODUCT[4], PRODUCT[24], PRODUCT[40]):
        config = config_of(flags)
        tensors, inputs = tensors_of(config), inputs_of(config, 12)
        for row, value in ((2, np.nan), (5, np.inf), (7, -np.inf)):
            inputs[row % 3][row, 1] = value
        # An infinity that all gates turn into zeros: what is padding must not make a NaN of it.
        inputs[2][9, 3] = -np.inf
        for name in tensors:
            if name.startswith("ppnet.") and name.endswith(".w1"):
                tensors[name][3] = np.abs(tensors[name][3])
        with np.errstate(all="ignore"):
            expected = reference(config, tensors, *inputs)
        assert np.isfinite(expected[[0, 9]]).all()
        assert not np.isfinite(expected[2]).any()
        got = model_of(library, config, "fp32", tensors=tensors).run(*inputs)
        np.testing.assert_allclose(got, expected, atol=5e-6)


def arrays_stay_where_they_are(
    backend: CudaBackend,
    config: ModelConfig,
    on_device: Callable[[np.ndarray], Any],
    rows: tuple[int, ...],
    stream: int,
) -> None:
    """Inputs and scores of another library have the bits of those by NumPy, rows beside them are not touched."""
    from pepnet_infer.schema.inputs import Inputs

    inputs = inputs_of(config, max(rows))
    whole = backend.run(Inputs(*inputs))
    for count in rows:
        given = [on_device(x)[1 : 1 + count] for x in (np.concatenate([x[:1], x]) for x in inputs)]
        out = on_device(np.full((count + 2, TASKS), -1.0, np.float32))
        assert backend.run_on_device(*given, out[1:-1], stream) == count
        scores = out.cpu().numpy()
        np.testing.assert_array_equal(scores[1:-1], whole[:count])
        assert (scores[[0, -1]] == -1.0).all()


def everything(library: CudaLibrary, reference: Reference, rows: int, counts: tuple[int, ...]) -> list[str]:
    """Does all of it. Returns what was done."""
    done = []
    for precision in TOLERANCES:
        all_flags(library, precision, reference, rows)
        several_tiles(library, precision, reference)
        rows_are_alone(library, precision, counts)
        tiles_have_the_same_bits(library, precision, reference, (max(2, counts[-1] // 16), min(counts[-1], 1025)))
        done.append(f"{precision}: {len(PRODUCT)} combinations of flags, widths over a tile, {len(counts)} row counts")
    logits_far_apart(library, reference)
    what_is_not_finite_stays_in_its_row(library, reference)
    nothing_is_left_of_earlier_calls(library)
    return [*done, "rows that are not finite, logits far apart, calls one after another"]


def nothing_is_left_of_earlier_calls(library: CudaLibrary) -> None:
    config = config_of()
    model, inputs = model_of(library, config, "fp32"), inputs_of(config, 6)
    expected = model.run(*inputs)
    model.run(*(np.full_like(x, np.nan) for x in inputs))
    np.testing.assert_array_equal(model.run(*inputs), expected)
    np.testing.assert_array_equal(model.run(*(x[:5] for x in inputs)), expected[:5])
