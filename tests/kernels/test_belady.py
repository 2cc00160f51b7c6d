"""Belady's MIN against every possible choice, and its input."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest

from pepnet_infer import _kernels


def _most_hits(keys: tuple[int, ...], rows: int) -> int:
    """Tries every victim at every miss."""

    @functools.cache
    def best(at: int, held: frozenset[int]) -> int:
        if at == len(keys):
            return 0
        key = keys[at]
        if key in held:
            return 1 + best(at + 1, held)
        if len(held) < rows:
            return best(at + 1, held | {key})
        return max(best(at + 1, held - {victim} | {key}) for victim in held)

    return best(0, frozenset())


@pytest.mark.parametrize("seed", range(60))
def test_no_choice_has_more_hits(seed: int) -> None:
    rng = random.Random(seed)
    ids, rows = rng.randint(2, 7), rng.randint(1, 4)
    keys = tuple(rng.randrange(ids) for _ in range(rng.randint(1, 16)))
    assert _kernels.studies.belady(np.array(keys, np.uint64), rows) == _most_hits(keys, rows)


def test_hits_are_marked() -> None:
    keys = np.array([1, 2, 3, 1, 2, 3, 2**64 - 1, 0], np.uint64)
    hits = np.ones(8, np.bool_)
    assert _kernels.studies.belady(keys, 2, hits) == 2
    assert hits.tolist() == [False, False, False, True, False, True, False, False]


def test_no_accesses_and_no_rows() -> None:
    assert _kernels.studies.belady(np.array([], np.uint64), 5) == 0
    hits = np.ones(3, np.bool_)
    assert _kernels.studies.belady(np.array([7, 7, 7], np.uint64), 0, hits) == 0
    assert not hits.any()


def test_bad_arrays() -> None:
    with pytest.raises(TypeError, match="keys: expected uint64, got int64"):
        _kernels.studies.belady(np.zeros(3, np.int64), 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"hits: expected \[3\] without gaps, got bool \[2\]"):
        _kernels.studies.belady(np.zeros(3, np.uint64), 1, np.zeros(2, np.bool_))
