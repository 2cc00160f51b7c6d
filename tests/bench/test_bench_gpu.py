"""What the script for a GPU machine compares with, and what it makes of its figures; the GPU itself is not asked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pepnet_infer.bench.gpu_peers import Network
from pepnet_infer.bench.gpu_timing import kernels, ratios, table
from pepnet_infer.schema.network_config import InputWidths, ModelConfig


def test_torchs_network_with_weights_packed_ahead(reference_scores: Callable[..., np.ndarray]) -> None:
    config = ModelConfig(InputWidths(19, 5, 7), layers=(17, 9), towers=(6,), experts=4)
    random, tensors = np.random.default_rng(2), {}
    for name, shape in config.tensor_shapes(3).items():
        tensors[name] = (0.4 * random.standard_normal(shape)).astype(np.float32)
    inputs = [random.standard_normal((11, width), dtype=np.float32) for width in (19, 5, 7)]
    network = Network(torch, config, tensors, torch.float32, "cpu")
    scores = network.eager(tuple(map(torch.from_numpy, inputs)))()
    expected = reference_scores(config, tensors, *inputs)
    assert expected.std() > 0.02
    np.testing.assert_allclose(scores.numpy(), expected, atol=2e-6)


def test_figures_as_text() -> None:
    timed = {"p50_us": 100.0, "p99_us": 120.0, "call_p50_us": 130.0, "call_p99_us": 150.0, "rounds": 5}
    found = {
        "gpu": "a GPU",
        "torch": "2",
        "timings": {
            "1024": {"cuda-bf16": timed, "torch-compile-bf16": timed | {"p50_us": 250.0}},
            "1": {"cuda-bf16": timed | {"p50_us": 20.0}},
        },
        "limits": {"copy_gb_per_s": 3000.0, "bf16_tflops": 800.0},
        "kernels": {"bf16": {"products": [{"flops_a_row": 20e6, "weight_bytes": 21e6}]}},
        "ids": {"1024": {"bf16, rows on GPU": {"p50_us": 140.0}}},
    }
    # 1024 · 20e6 / 800e12 s = 25.6 us; 21e6 / 3e12 s = 7 us
    assert list(ratios(found)) == [
        "cuda-bf16, 1024 rows: 100.0 us, 2.50 x as fast as torch-compile-bf16, 3.9 x its bound of 25.6 us, "
        "ids -> scores 1.40 x that",
        "cuda-bf16, 1 rows: 20.0 us, 2.9 x its bound of 7.0 us",
    ]
    assert "250.0 / 130.0 (150.0)" in table(found)
    assert table({}) == "no timings"
    assert list(ratios({})) == []


def test_tiles_as_text() -> None:
    tiles = [{"tile": "many", "microseconds": {"many": 9.0, "wide": 12.0}}]
    facts = {"products": [{"name": "a", "launch": 0}, {"name": "b", "launch": 0}], "tiles": {"64": tiles}}
    assert kernels(facts).splitlines()[1] == "     64: a + b: many 9.0"
