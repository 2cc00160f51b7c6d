"""What a cache may be told, and how its bytes are divided."""

from __future__ import annotations

import pytest

from pepnet_infer import CacheConfig, ConfigError, EmbeddingCache, FieldConfig
from pepnet_infer.rows.cache.config import DTYPES, POLICIES, parse_bytes
from pepnet_infer.rows.cache.open_bundle_rows import bytes_for, divide
from pepnet_infer.schema.feature_schema import FeatureSchema


@pytest.mark.parametrize(
    ("given", "bytes"),
    [(4096, 4096), ("4096", 4096), ("64MiB", 64 << 20), ("1.5 GiB", 3 << 29), ("2kB", 2000), ("3 mb", 3_000_000)],
)
def test_sizes_are_numbers_or_text(given: int | str, bytes: int) -> None:
    assert parse_bytes("capacity", given) == bytes
    assert CacheConfig(capacity=given).capacity_bytes == bytes


@pytest.mark.parametrize("given", [0, -1, True, 1.5, "", "64", "MiB", "64 XB", "-1MiB", "1e3MB", None, 1 << 60])
def test_sizes_that_are_none_are_refused(given: object) -> None:
    if given == "64":
        assert parse_bytes("capacity", given) == 64
        return
    with pytest.raises(ConfigError, match="capacity: expected bytes, as an integer from 1 or text such as '512MiB', "):
        parse_bytes("capacity", given)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("policy", "fifo", "policy: expected one of gset, lfu, lru, s3fifo, sieve, got 'fifo'"),
        ("dtype", "float64", "dtype: expected one of bfloat16, float16, float32, int8, got 'float64'"),
        ("on_fault", "ignore", "on_fault: expected one of default, raise, got 'ignore'"),
        ("beta", 0, "beta: expected a number above 0 to below 1, got 0"),
        ("r", float("nan"), "r: expected a number above 0, got nan"),
        ("interval", "day", "interval: expected a number above 0, got 'day'"),
        ("admission", 1.1, r"admission: expected a number from 0 to 1, got 1\.1"),
        ("budget_ms", -1, "budget_ms: expected a number from 0 or None, got -1"),
        ("async_above", 2, "async_above: expected a number from 0 to 1 or None, got 2"),
        ("negative_ttl", 0, "negative_ttl: expected a number above 0 or None, got 0"),
        ("tombstone_ttl", True, "tombstone_ttl: expected a number above 0, got True"),
        ("warm", 1, "warm: expected true or false, got 1"),
        ("fields", ["user"], "fields: expected a mapping to a FieldConfig, got "),
        ("fields", {"user": "high"}, r"fields\.user: expected a FieldConfig, got 'high'"),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CacheConfig(**{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("priority", "low", "priority: expected one of high, normal, got 'low'"),
        ("ttl", 0, "ttl: expected a number above 0 or None, got 0"),
        ("share", 0, "share: expected a number above 0 to 1, got 0"),
        ("admission", -0.1, r"admission: expected a number from 0 to 1 or None, got -0\.1"),
    ],
)
def test_rules_of_a_field_out_of_range_are_refused(option: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FieldConfig(**{option: value})  # type: ignore[arg-type]


def test_rules_are_of_a_field_or_its_table(toy_schema: FeatureSchema) -> None:
    high = FieldConfig("high", ttl=60.0, share=0.5, admission=0.25)
    config = CacheConfig(fields={"user_id": high, "tag": FieldConfig(share=0.1)})
    user, tag = (toy_schema.table_by_name[name].number for name in ("user", "tag"))
    assert config.rules(toy_schema) == [
        {"table": user, "high_priority": True, "ttl": 60.0, "share": 0.5, "admission": 0.25},
        {"table": tag, "high_priority": False, "share": 0.1},
    ]
    assert len(CacheConfig(fields={"video_id": high, "watched": high, "video": high}).rules(toy_schema)) == 1
    with pytest.raises(ConfigError, match="expected one FieldConfig for table 'video', got different ones for 'video_"):
        CacheConfig(fields={"video_id": high, "watched": FieldConfig()}).rules(toy_schema)
    for name in ("uesr", "age"):
        with pytest.raises(ConfigError, match=rf"fields: expected fields with a table \(page, .*\), got '{name}'"):
            CacheConfig(fields={name: high}).rules(toy_schema)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("rows", "dim"), [(0, 1), (3, 200), (500, 5), (9000, 40)])
def test_the_bytes_for_some_rows_hold_them(dtype: str, policy: str, rows: int, dim: int) -> None:
    size = bytes_for(rows, dim, dtype, policy)  # type: ignore[arg-type]
    cache = EmbeddingCache(dim, size, policy, dtype)
    assert cache.capacity_rows >= max(1, 1.1 * rows)
    assert cache.memory_bytes <= size <= max(320 << 10, 2 * rows * (4 * dim + 40))


def test_a_budget_is_divided_by_what_the_rows_take() -> None:
    rows = {8: 1000, 40: 50_000, 200: 0}
    for capacity in (1 << 20, 5 << 20, 1 << 30):
        given = divide(capacity, rows, "float32", "gset", bounded=True)
        assert given.keys() == rows.keys()
        assert sum(given.values()) <= capacity
        for dim, size in given.items():
            assert size <= bytes_for(rows[dim], dim, "float32", "gset")
            assert EmbeddingCache(dim, size, "gset").memory_bytes <= size
    assert given == {dim: bytes_for(count, dim, "float32", "gset") for dim, count in rows.items()}
    unbounded = divide(1 << 30, rows, "float32", "gset", bounded=False)
    assert 0.999 * (1 << 30) < sum(unbounded.values()) <= 1 << 30
    assert sum(divide(1 << 20, {4: 0, 5: 0}, "float32", "lru", bounded=False).values()) == 1 << 20
    with pytest.raises(
        ConfigError, match=r"capacity: expected at least \d+ bytes for tables of width 8, 40, 200, got 9"
    ):
        divide(9, rows, "float32", "gset", bounded=True)


@pytest.mark.parametrize("capacity", ["9" * 5000, "9" * 400 + "MiB", "9" * 40, "1e3MiB"])
def test_a_capacity_beyond_any_memory_is_refused_as_an_option(capacity: str) -> None:
    with pytest.raises(ConfigError, match="capacity: expected bytes"):
        CacheConfig(capacity=capacity)
