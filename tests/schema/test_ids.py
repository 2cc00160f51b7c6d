import hashlib

import numpy as np
import pytest
import xxhash

from pepnet_infer.schema.ids import ID_BITS, MAX_ID, MAX_TABLES, MISSING_KEY, hash_integers, hash_strings, make_keys


def test_key_is_table_number_over_id() -> None:
    ids = np.array([0, 1, MAX_ID - 1], dtype=np.uint64)
    keys = make_keys(3, ids)
    assert [int(k) for k in keys] == [3 << 48, (3 << 48) + 1, (3 << 48) + 2**48 - 1]


@pytest.mark.parametrize("number", [-1, 0xFFFF, 1 << 20])
def test_table_number_out_of_range(number: int) -> None:
    with pytest.raises(ValueError, match=r"table number: expected 0 to 65534, got"):
        make_keys(number, np.zeros(1, dtype=np.uint64))


def test_missing_key_belongs_to_no_table() -> None:
    assert int(MISSING_KEY) >> ID_BITS == MAX_TABLES


def test_strings_are_low_48_bits_of_xxh3() -> None:
    words = ["", "full_active", "视频"]
    expected = [xxhash.xxh3_64(w.encode()).intdigest() % 2**48 for w in words]
    assert [int(i) for i in hash_strings(words)] == expected
    # The published test vector of XXH3-64 for the empty input.
    assert expected[0] == 0x2D06800538D394C2 % 2**48


def test_integers_are_exact_below_2_48_and_hashed_above() -> None:
    values = np.array([0, 7, MAX_ID - 1, MAX_ID, -1, -124], dtype=np.int64)
    ids = hash_integers(values)
    assert ids[:3].tolist() == [0, 7, MAX_ID - 1]
    for value, got in zip(values[3:].tolist(), ids[3:], strict=True):
        digest = xxhash.xxh3_64(int(value).to_bytes(8, "little", signed=True)).intdigest()
        assert int(got) == digest % 2**48


def test_ids_spread_over_48_bits() -> None:
    words = [hashlib.md5(str(i).encode()).hexdigest() for i in range(20_000)]
    ids = hash_strings(words)
    assert np.unique(ids).size == len(words)
    assert ids.max() < MAX_ID
    top = np.bincount((ids >> np.uint64(44)).astype(np.int64), minlength=16)
    assert top.min() > 1000  # 1250 expected in each of 16 slices
