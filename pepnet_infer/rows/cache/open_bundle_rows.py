"""A bundle's tables behind a cache, whose bytes are divided between the widths of the tables."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.table_file import TableFile, open_table
from pepnet_infer.errors import ConfigError, StoreError
from pepnet_infer.rows.cache.cached_rows import CachedRows
from pepnet_infer.rows.cache.config import CacheConfig, Policy, RowDtype
from pepnet_infer.rows.cache.embedding_cache import EmbeddingCache
from pepnet_infer.rows.protocols import CachedTable, RowSource, Store, check_reachable, meets
from pepnet_infer.rows.stores.mmap import MmapStore

_LOG = logging.getLogger("pepnet_infer.stores")
#: Options of an `EmbeddingCache` that have the same names here.
_SAME = ("beta", "r", "interval", "admission", "tombstone_ttl", "negative_ttl", "seed")
#: Bytes beside those of the rows, in the smallest cache: places of readers, one region, one set, rounding.
_FIXED = 160 << 10
_METADATA = 24  # a row: 8 in its set, 16 before it
#: Slots for each row there may be. Rows spread unevenly over sets of 8: at a load of two thirds fewer than 1 in 10,000
#: find no place, at 0.9 it is 1 in 100, and each costs the batch that asks for it a question to the store.
_SLACK = 1.5
_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
_WAYS = 8


def open_rows(
    bundle: Bundle, cache: CacheConfig | Literal["default"] | None, store: RowSource | Store | None
) -> RowSource:
    """Returns where an engine's rows come from: see `Engine.load`.

    A store has `get_many`; a row source without it is asked itself, and a cache that was asked for is an error then, as
    is no cache before a store that is no row source. Raises ConfigError.
    """
    if cache != "default" and cache is not None and not isinstance(cache, CacheConfig):
        raise ConfigError(f"cache: expected a CacheConfig, None or 'default', got {cache!r}")
    config = CacheConfig() if isinstance(cache, str) else cache
    if store is None:
        return _own_tables(bundle) if config is None else cached_rows(bundle, config)
    kind = type(store).__name__
    if isinstance(store, CachedRows | type):  # an engine closes its cache, and writes what it follows into it
        raise ConfigError(f"store: expected a store or a row source of its own, got {kind}")
    if meets(store, Store):
        if config is not None:
            return cached_rows(bundle, config, store)
        if not meets(store, RowSource):
            raise ConfigError(f"cache: expected one before {kind}, which has no answer of its own, got None")
    if not meets(store, RowSource):
        raise ConfigError(f"store: expected a store with get_many or a row source with answer, got {kind}")
    if isinstance(cache, CacheConfig):
        raise ConfigError(f"cache: expected a store with get_many behind it, got {kind}")
    return store


def cached_rows(bundle: Bundle, config: CacheConfig, store: Store | None = None) -> CachedRows:
    """Returns `bundle`'s rows through a cache, from `store` or from its own tables, and warm if that is asked for.

    From its own tables, the cache takes no more bytes than all their rows need. From a store they are the size of the
    tables too when the budget is divided between widths, but not its bound; warm are then the ids that the bundle
    scores highest, with the rows of the store. Raises StoreError, BundleError, ConfigError for a field's rule.
    """
    specs = bundle.schema.table_by_name
    behind: Store
    files: Mapping[str, TableFile]
    fault: StoreError | None = None
    if store is None:
        behind = own = _own_tables(bundle)
        files = own.files
    else:
        try:
            check_reachable(store)
        except StoreError as error:
            fault = error
            _raise_or_warn(config, "the store cannot be read, default rows are served until it can", error)
        behind = store
        files = {name: open_table(path, specs[name]) for name, path in bundle.table_paths.items()}
    tables = [
        CachedTable(name, spec.number, spec.dim, len(files[name].keys), files[name].default)
        for name, spec in specs.items()
    ]
    rows: Counter[int] = Counter()
    for table in tables:
        rows[table.dim] += table.rows
    rules, dims = config.rules(bundle.schema), {table.number: table.dim for table in tables}
    caches = {
        dim: EmbeddingCache(
            dim,
            size,
            config.policy,
            config.dtype,
            **{name: getattr(config, name) for name in _SAME},
            fields=[rule for rule in rules if dims[rule["table"]] == dim],
        )
        for dim, size in divide(config.capacity_bytes, rows, config.dtype, config.policy, store is None).items()
    }
    cached = CachedRows(behind, tables, caches, config)
    if fault is not None:
        cached.counters.saw(fault)
    warm = config.warm
    if config.warm_from is not None:
        try:
            cached.warm_from(config.warm_from)
            warm = False
        except StoreError as error:
            _raise_or_warn(config, "the cache does not begin with the rows of its snapshot", error)
    if warm:
        cached.warm({name: (files[name].keys, files[name].scores) for name in specs})
    return cached


def _raise_or_warn(config: CacheConfig, what: str, error: StoreError) -> None:
    if config.on_load == "raise":
        raise error
    _LOG.warning("%s: %s", what, error)


def _own_tables(bundle: Bundle) -> MmapStore:
    files: dict[str, dict[str, object]] = bundle.manifest["files"]
    listed = [[name, entry["sha256"]] for name, entry in sorted(files.items()) if name.startswith("tables/")]
    known_as = f"tables {hashlib.sha256(json.dumps(listed).encode()).hexdigest()}"
    return MmapStore(bundle.table_paths, bundle.schema.table_by_name, known_as, bundle.table_hashes)


def bytes_for(rows: int, dim: int, dtype: RowDtype, policy: Policy) -> int:
    """Returns how many bytes hold `rows` rows of width `dim`, all of them with near certainty."""
    scale = 4 if dtype == "int8" else 0
    slot = (_SIZES[dtype] * dim + scale + 7) // 8 * 8 + _METADATA + (2 if policy == "s3fifo" else 0)
    return _FIXED + int((rows * _SLACK + _WAYS) * slot)


def divide(capacity: int, rows: Mapping[int, int], dtype: RowDtype, policy: Policy, bounded: bool) -> dict[int, int]:
    """Returns the bytes of each width, together at most `capacity`; rows: width → rows of the tables.

    Each has what its smallest cache takes, and of the rest in proportion to what all its rows take; with `bounded`
    never more than that. Raises ConfigError when the smallest caches do not fit.
    """
    least = {dim: bytes_for(0, dim, dtype, policy) for dim in rows}
    rest = capacity - sum(least.values())
    if rest < 0:
        widths = ", ".join(map(str, sorted(rows)))
        raise ConfigError(
            f"capacity: expected at least {sum(least.values())} bytes for tables of width {widths}, got {capacity}"
        )
    more = {dim: bytes_for(count, dim, dtype, policy) - least[dim] for dim, count in rows.items()}
    total = sum(more.values())
    given = {}
    for dim in rows:
        share = rest * more[dim] // total if total else rest // len(rows)
        given[dim] = least[dim] + (min(share, more[dim]) if bounded else share)
    return given
