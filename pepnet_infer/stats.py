"""The shapes of what is counted, key by key."""

from __future__ import annotations

from typing import Any, TypedDict


class DefaultedIds(TypedDict):
    """Ids that got a table's default row, every repeat counted."""

    fields: dict[str, int]  #: By field; fields without one are left out.
    tables: dict[str, int]  #: By table: the sums of its fields.


class BundleState(TypedDict):
    """Whether the files of the bundle are still those that were loaded."""

    path: str  #: The bundle's directory.
    state: str  #: "as loaded", "replaced" (by rename) or "changed" (in place).
    file: str  #: Which file is another one; "" for none.


class LookupCounts(TypedDict):
    """What became of keys that were looked up, every repeat counted."""

    keys: int  #: Keys that were looked up.
    hits: int  #: Keys whose row was in the cache.
    misses: int  #: Keys that were neither hits nor negative hits.
    negative_hits: int  #: Keys that were known not to exist: the default row, without a question to the store.
    defaults: int  #: Keys that got the default row, for whatever reason.
    unavailable: int  #: Of these, keys of which it is not known whether there is a row.


class MissCounts(TypedDict):
    """What became of the ids that were looked up."""

    total: LookupCounts  #: All lookups.
    fields: dict[str, LookupCounts]  #: Lookups by field.
    tables: dict[str, LookupCounts]  #: Lookups by table.
    #: Keys that got the default row, by reason: absent, late, fault, deferred, dropped, damaged.
    defaults: dict[str, int]
    #: Questions to the store: calls, keys, seconds, faults, last_fault; joined (a batch waited for another's fetch),
    #: again (asked anew, as the other was interrupted), overruns (of the budget), dropped (no place in the queue),
    #: touched (rows not kept, as an update came meanwhile), damaged (keys whose stored row cannot be served).
    store: dict[str, Any]


class CacheStats(MissCounts):
    """What a cache of rows has done since it was made: `CachedRows.stats`."""

    policy: str  #: What decides who is evicted.
    dtype: str  #: How rows are kept.
    rows: int  #: Rows that are there now.
    capacity_rows: int  #: Rows there is room for.
    memory_bytes: int  #: Memory of the caches of all widths.
    flights: int  #: Ids that the store is being asked for now.
    widths: dict[str, dict[str, Any]]  #: `EmbeddingCache.stats` by width of the rows.
    #: Rows on a GPU: what they were asked and lacked; the rest is then of these lacks. None without such rows.
    device: dict[str, Any] | None


class FollowStats(TypedDict):
    """What a follower has done since the engine began to follow: `Follower.stats`."""

    applied: int  #: Deltas that were put in place.
    dense: int  #: Of these, deltas with weights.
    rows: int  #: Rows of all deltas.
    bytes: int  #: Bytes of all deltas.
    written_back: int  #: Deltas whose rows were written to store and cache, where calls looked for them first.
    skipped: int  #: Deltas that led no further.
    refused: dict[str, int]  #: Entries that were refused, by reason.
    last_refusal: str | None  #: Why the last one was refused.
    gaps: int  #: Deltas that came before the one they are on.
    bundles: int  #: Bundles that were taken from the log.
    rollbacks: int  #: Times that an earlier version was gone back to.
    unguarded: int  #: Weights that went live with too few recent rows to try them on.
    replaced: int  #: Times that the log was another one than before.
    faults: int  #: Faults of the log, or of what an entry that is tried again needs.
    last_fault: str | None  #: The last of these.
    #: A histogram of the seconds from production to visibility: counts up to each of edges_s, and above.
    freshness: dict[str, Any]
    model_version: int  #: The version that new calls get.
    newest_version: int  #: The newest version that was seen in the log.
    #: Seconds that the newest version has been there, 0 when it is served; while the log is not read, at least how long
    #: ago it was.
    lag_s: float
    last_read_s: float  #: Seconds since the log was read, whether there was anything new in it or not.
    layered_rows: int  #: Ids kept in memory because their rows came after the bundle.
    following: bool  #: Whether it follows now: its thread runs, and the log can be read.


class CallCounts(TypedDict):
    """What became of the calls of an engine."""

    batches: int  #: Batches that were scored.
    rows: int  #: Rows that were scored.
    errors: int  #: Calls that raised.
    invalid: int  #: Rows of which a score is no number in [0, 1].
    unknown: DefaultedIds  #: Ids that the store does not have.
    unavailable: DefaultedIds  #: Ids that got the default row because the store failed, was late or was not waited for.
    time_us: dict[str, int]  #: Microseconds spent, by stage: encode, lookup, dense.


class EngineStats(CallCounts):
    """What an engine has done since it was loaded: `Engine.stats`."""

    model_version: int  #: The version of the model that new calls get.
    bundle: BundleState  #: Whether the bundle's files are still those that were loaded.
    cache: CacheStats | None  #: The cache of rows; None without one.
    #: What runs the dense part: backend, device, precision, threads, why and what else `Backend.describe` says.
    backend: dict[str, Any]
    sync: FollowStats | None  #: What follows a log; None where nothing does.
