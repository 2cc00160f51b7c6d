from __future__ import annotations

import numpy as np
import pytest

from pepnet_infer._kernels import KeyIndex

EXTREMES = [0, 1, 2**63, 2**64 - 2, 2**64 - 1]


def truth(keys: np.ndarray, asked: np.ndarray) -> list[int]:
    positions = {int(key): at for at, key in enumerate(keys)}
    return [positions.get(int(key), -1) for key in asked]


@pytest.mark.parametrize("count", [1, 2, 5, 6, 17, 1000, 30_000])
@pytest.mark.parametrize("spread", ["dense", "random", "high bits"])
def test_find_agrees_with_a_dict(count: int, spread: str) -> None:
    rng = np.random.default_rng(count)
    if spread == "dense":
        keys = np.arange(count, dtype=np.uint64) + np.uint64(5 << 48)
    elif spread == "random":
        keys = np.unique(rng.integers(0, 2**64, count, dtype=np.uint64))
    else:
        keys = np.arange(count, dtype=np.uint64) << np.uint64(49)
        keys = np.unique(keys)
    rng.shuffle(keys)
    near = keys[rng.integers(0, len(keys), 500)] + np.uint64(1)
    asked = np.concatenate([keys, near, rng.integers(0, 2**64, 500, dtype=np.uint64), keys[:1], keys[:1]])
    assert KeyIndex(keys).find(asked).tolist() == truth(keys, asked)


def test_no_key_is_reserved() -> None:
    extremes = np.array(EXTREMES, dtype=np.uint64)
    for left_out in range(len(EXTREMES)):
        keys = np.delete(extremes, left_out)
        assert KeyIndex(keys).find(extremes).tolist() == truth(keys, extremes)


def test_an_empty_index_knows_nothing() -> None:
    index = KeyIndex(np.empty(0, np.uint64))
    assert len(index) == 0
    assert index.find(np.array(EXTREMES, dtype=np.uint64)).tolist() == [-1] * len(EXTREMES)


def test_an_empty_question_has_an_empty_answer() -> None:
    found = KeyIndex(np.array([1], dtype=np.uint64)).find(np.empty(0, np.uint64))
    assert found.dtype == np.int64
    assert found.shape == (0,)


def test_the_keys_are_not_referred_to_afterwards() -> None:
    keys = np.arange(100, dtype=np.uint64)
    index = KeyIndex(keys)
    keys[:] = 0
    assert index.find(np.array([42], dtype=np.uint64)).tolist() == [42]


def test_keys_may_lie_at_an_odd_address() -> None:
    keys = np.frombuffer(b"x" + np.arange(50, dtype="<u8").tobytes(), dtype="<u8", offset=1)
    assert not keys.flags.aligned
    assert KeyIndex(keys).find(keys).tolist() == list(range(50))


def test_memory_is_about_19_bytes_a_key() -> None:
    index = KeyIndex(np.arange(300_000, dtype=np.uint64))
    assert len(index) == 300_000
    assert 12 * 300_000 < index.memory_bytes <= 19 * 300_000 + (2 << 20)  # padded to a huge page


@pytest.mark.parametrize("places", [(0, 1), (0, 999), (437, 998)])
def test_a_key_that_comes_twice_is_named_with_both_places(places: tuple[int, int]) -> None:
    keys = np.arange(1000, dtype=np.uint64)
    keys[list(places)] = 123_456
    message = f"keys: expected distinct keys, got 123456 at positions {places[0]} and {places[1]}"
    with pytest.raises(ValueError, match=message):
        KeyIndex(keys)


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        (np.arange(3, dtype=np.int64), TypeError, r"keys: expected uint64, got int64 \[3\]"),
        (np.arange(3, dtype=np.float64), TypeError, r"keys: expected uint64, got float64 \[3\]"),
        (np.arange(3, dtype=">u8"), TypeError, r"keys: expected uint64, got >u8 \[3\]"),
        (np.zeros((2, 2), np.uint64), ValueError, r"keys: expected one dimension without gaps, got uint64 \[2, 2\]"),
        (np.arange(6, dtype=np.uint64)[::2], ValueError, r"without gaps, got uint64 \[3\] with gaps"),
        (np.array(7, dtype=np.uint64), ValueError, r"keys: expected one dimension without gaps, got uint64 \[\]"),
        ([1, 2, 3], TypeError, "incompatible"),
    ],
)
def test_other_arrays_are_refused(keys: np.ndarray, error: type[Exception], message: str) -> None:
    index = KeyIndex(np.arange(3, dtype=np.uint64))
    with pytest.raises(error, match=message):
        KeyIndex(keys)
    with pytest.raises(error, match=message):
        index.find(keys)
