"""What `make compare` says of two builds' scores."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from compare.__main__ import compare


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        np.savez(folder / "a.npz", scores=np.float32([0.25, np.nan]), unknown=np.array(["x", "3"]))
    return old, new


def test_the_same_bits_are_the_same(folders: tuple[Path, Path]) -> None:
    assert compare(*folders) == []


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (
            np.float32([np.nextafter(np.float32(0.25), np.float32(1)), np.nan]),
            "1 of 2 values differ, by 2.98e-08 at most",
        ),
        (np.float32([0.25]), r"float32\(2,\) is not float32\(1,\)"),
        (np.array([0.25, np.nan]), r"float32\(2,\) is not float64\(2,\)"),
    ],
)
def test_other_scores_are_named(folders: tuple[Path, Path], scores: np.ndarray, said: str) -> None:
    np.savez(folders[1] / "a.npz", scores=scores, unknown=np.array(["x", "3"]))
    (line,) = compare(*folders)
    assert line.startswith("a.npz: scores: ")
    assert re.search(said, line)


def test_what_only_one_build_has_is_named(folders: tuple[Path, Path]) -> None:
    old, new = folders
    np.savez(new / "a.npz", scores=np.float32([0.25, np.nan]))
    np.savez(old / "b.npz", scores=np.float32([1]))
    assert compare(old, new) == ["a.npz: unknown: only the old build has it", "b.npz: only one build scored it"]


def test_no_scores_are_no_agreement(tmp_path: Path) -> None:
    assert compare(tmp_path, tmp_path) == [f"{tmp_path}: expected scores, got none"]
