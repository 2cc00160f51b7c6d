"""Tensor files against the safetensors library, bfloat16 against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from pepnet_infer.bundle.bundle import read_tensors
from pepnet_infer.storage.tensorfile import from_bfloat16, to_bfloat16, write_tensors


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "keys": rng.integers(0, 2**63, 5).astype(np.uint64),
        "w": rng.standard_normal((3, 4)).astype(np.float32),
        "half": rng.standard_normal((2, 3)).astype(np.float16),
        "offsets": np.array([0, 2, 2], np.int64),
        "empty": np.empty((0, 7), np.float32),
        "byte": np.array([1, 2, 3], np.uint8),
    }


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", tensors())
    found = safetensors.numpy.load_file(tmp_path / "a")
    assert set(found) == set(tensors())
    for name, expected in tensors().items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    safetensors.numpy.save_file(tensors(), tmp_path / "a", {"made": "elsewhere"})
    found = read_tensors(tmp_path / "a")
    assert set(found) == set(tensors())
    for name, expected in tensors().items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)


def test_bytes_do_not_depend_on_order_strides_or_byte_order(tmp_path: Path) -> None:
    plain = {"b": np.arange(12, dtype=np.float32).reshape(3, 4), "a": np.arange(3, dtype=np.uint64)}
    odd = {"a": plain["a"].astype(">u8"), "b": np.asfortranarray(plain["b"])}
    write_tensors(tmp_path / "plain", plain)
    write_tensors(tmp_path / "odd", odd)
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "odd").read_bytes()


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FileExistsError):
        write_tensors(tmp_path / "a", tensors())


def test_bfloat16_rounds_as_torch_does_and_comes_back_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    ties = ((np.arange(65536, dtype=np.uint32) << 16) | 0x8000).view(np.float32)  # halfway between two bfloat16
    values = np.concatenate([values, ties[np.isfinite(ties)], np.float32([0.0, -0.0, 1e-45, 1.0])])
    expected = torch.from_numpy(values).bfloat16()
    np.testing.assert_array_equal(to_bfloat16(values), expected.view(torch.uint16).numpy())
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(values)), expected.float().numpy())
    write_tensors(tmp_path / "a", {"rows": to_bfloat16(values)}, frozenset({"rows"}))
    assert torch.equal(safetensors.torch.load_file(tmp_path / "a")["rows"], expected)
