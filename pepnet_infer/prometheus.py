"""The statistics of an engine as a page of Prometheus' text format.

Serve it as `CONTENT_TYPE`. Counters end in `_total` and only grow; freshness is a histogram; everything
else is a gauge. Times are in seconds. Labels: `table`, `field`, `width` (numbers in a row: tables of one width share a
cache), `reason`, `result`, `stage`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import Metric, generate_latest

__all__ = ["CONTENT_TYPE", "prometheus_text"]

_Kind = Literal["counter", "gauge", "histogram"]

#: Key in the statistics → metric, what it is, and labels of its own.
_Table = Mapping[str, tuple[str, str] | tuple[str, str, dict[str, str]]]

_FRESH = "Seconds from the production of a delta to its visibility"

#: Of `total`, `fields` and `tables`.
_LOOKED_UP: _Table = {
    "keys": ("lookups", "Keys looked up; every repeat counts, here and in hits and misses"),
    "hits": ("hits", "Keys whose row was in the cache"),
    "misses": ("misses", "Keys of which the cache knew nothing"),
    "negative_hits": ("negative_hits", "Keys known not to exist"),
    "defaults": ("defaults", "Keys that got the default row"),
    "unavailable": ("unavailable", "Keys that got the default row because the store gave no answer"),
}

#: Ids that got the default row.
_DEFAULTED = {
    "unknown": "Ids that the store does not have",
    "unavailable": "Ids that got the default row because the store failed, was late or was not waited for",
}

#: Of `store`.
_STORE: _Table = {
    "calls": ("store_calls", "Questions to the store"),
    "keys": ("store_keys", "Distinct keys the store was asked for"),
    "seconds": ("store_seconds", "Time the store took to answer"),
    "faults": ("store_faults", "Questions the store did not answer"),
    "joined": ("store_joined", "Times that a batch waited for rows another one was fetching"),
    "overruns": ("overruns", "Batches that ran over their time budget"),
    "dropped": ("store_dropped", "Fetches given up because the queue was full"),
    "again": ("store_asked_again", "Times that a batch asked anew because the call it waited for was interrupted"),
    "damaged": ("store_damaged", "Keys of which the store has something that cannot be served"),
    "touched": ("store_touched", "Rows fetched and not kept because an update came meanwhile"),
}

#: Of `device`.
_DEVICE: _Table = {
    "inserted": ("inserted", "Rows put on the device"),
    "dropped": ("dropped", "Rows dropped from the device because they changed"),
    "outdated": ("outdated", "Rows not put on the device because rows had changed since they were asked for"),
}

#: Of each width, the counters; what is a label in the metric comes third.
_WIDTH: _Table = {
    "inserted": ("inserted", "Rows written that were not there"),
    "replaced": ("replaced", "Rows written in place of an older version"),
    "stale": ("stale", "Rows not written because a newer version was there"),
    "rejected_admission": ("rejected", "Rows not admitted", {"reason": "admission"}),
    "rejected_share": ("rejected", "Rows not admitted", {"reason": "share"}),
    "rejected_priority": ("rejected", "Rows not admitted", {"reason": "priority"}),
    "updates_applied": ("updates", "Updates and deletions that came to the cache", {"result": "applied"}),
    "updates_stale": ("updates", "Updates and deletions that came to the cache", {"result": "stale"}),
    "evicted_expired": ("evicted", "Entries that had to go", {"reason": "expired"}),
    "evicted_policy": ("evicted", "Entries that had to go", {"reason": "policy"}),
    "evicted_share": ("evicted", "Entries that had to go", {"reason": "share"}),
    "erased": ("erased", "Deletions that applied"),
}

#: Of each width, the gauges.
_WIDTH_NOW: _Table = {
    "rows": ("rows", "Rows there now"),
    "negatives": ("negatives", "Entries for ids that do not exist, there now"),
    "tombstones": ("tombstones", "Entries for deleted ids, there now"),
    "capacity_rows": ("capacity_rows", "Rows there is room for"),
    "memory_bytes": ("memory_bytes", "Memory taken, all of it from the beginning"),
    "occupancy": ("occupancy_ratio", "Rows there now, of those there is room for"),
}

#: Of `sync`.
_SYNC: _Table = {
    "applied": ("deltas_applied", "Deltas that became visible"),
    "dense": ("weights_applied", "Deltas that became visible and had dense weights"),
    "rows": ("rows_applied", "Rows of deltas that became visible"),
    "bytes": ("bytes", "Bytes of deltas that became visible"),
    "written_back": ("deltas_written_back", "Deltas whose rows were written back to store and cache"),
    "skipped": ("deltas_skipped", "Deltas that led no further"),
    "gaps": ("gaps", "Deltas that came before the one they are on"),
    "bundles": ("bundles", "Times that a whole bundle took the place of deltas"),
    "rollbacks": ("rollbacks", "Times that an earlier version was gone back to"),
    "unguarded": ("unguarded", "Weights that went live with too few recent rows to try them on"),
    "replaced": ("log_replaced", "Times that the log was another one than before"),
    "faults": ("log_faults", "Times that the log, or what an entry needs, was away and was asked again"),
}


def prometheus_text(stats: Mapping[str, Any]) -> str:
    """Returns what `Engine.stats()` said as a page of metrics named `pepnet_*`; those of the cache if there is one."""
    page = _Page()
    _engine(page, stats)
    for section, add in (("cache", _cache), ("sync", _sync)):
        if stats.get(section) is not None:
            add(page, stats[section])
    return generate_latest(page).decode()


def _engine(page: _Page, stats: Mapping[str, Any]) -> None:
    page.add("batches", "counter", "Batches scored", stats["batches"])
    page.add("rows", "counter", "Rows scored", stats["rows"])
    page.add("errors", "counter", "Calls that raised", stats["errors"])
    page.add("invalid_rows", "counter", "Rows of which a score is no number in [0, 1]", stats["invalid"])
    for stage, spent in stats["time_us"].items():
        page.add("stage_seconds", "counter", "Time spent, by stage", spent / 1e6, stage=stage)
    for kind, text in _DEFAULTED.items():
        for name, count in stats[kind]["tables"].items():
            page.add(f"{kind}_ids", "counter", text, count, table=name)
        for name, count in stats[kind]["fields"].items():
            page.add(f"field_{kind}_ids", "counter", f"{text}, by field", count, field=name)
    page.add("model_version", "gauge", "Version of the model that is loaded", stats["model_version"])
    changed = int(stats["bundle"]["state"] == "changed")
    page.add(
        "bundle_changed", "gauge", "1 where a file of the bundle was changed in place after it was loaded", changed
    )
    known = ("backend", "device", "precision", "isa", "threads")
    labels = {name: str(stats["backend"][name]) for name in known if stats["backend"].get(name) is not None}
    if "outside_rows" in stats["backend"]:
        text = "Rows scored in fp32 because they are outside of the domain of the precision"
        page.add("outside_rows", "counter", text, stats["backend"]["outside_rows"])
    page.add("backend_info", "gauge", "What the dense part runs on; always 1", 1, **labels)


def _cache(page: _Page, cache: Mapping[str, Any]) -> None:
    labels = {"policy": cache["policy"], "dtype": cache["dtype"]}
    page.add("cache_info", "gauge", "How rows are kept, and who goes; always 1", 1, **labels)
    for name, sums in cache["tables"].items():
        page.each("cache_", _LOOKED_UP, sums, table=name)
    for name, sums in cache["fields"].items():
        page.each("cache_field_", _LOOKED_UP, sums, more=", by field", field=name)
    for reason, count in cache["defaults"].items():
        page.add("cache_default_rows", "counter", "Keys that got the default row, by reason", count, reason=reason)
    page.each("cache_", _STORE, cache["store"])
    page.add("cache_flights", "gauge", "Ids that the store is being asked for now", cache["flights"])
    for width, one in cache["widths"].items():
        page.each("cache_", _WIDTH, one, width=str(width))
        page.each("cache_", _WIDTH_NOW, one, "gauge", width=str(width))
    device = cache["device"]
    if device is not None:
        for name, sums in device["fields"].items():
            looked_up = {key: _LOOKED_UP[key] for key in sums}
            page.each("device_field_", looked_up, sums, more=", on the device, by field", field=name)
        page.each("device_", _DEVICE, device)
        page.add("device_capacity_rows", "gauge", "Rows there is room for on the device", device["entries"])
        page.add("device_memory_bytes", "gauge", "Memory of the device taken by rows", device["bytes"])


def _sync(page: _Page, sync: Mapping[str, Any]) -> None:
    page.each("sync_", _SYNC, sync)
    for reason, count in sync["refused"].items():
        page.add("sync_refused", "counter", "Deltas and bundles not applied, by reason", count, reason=reason)
    page.add("sync_newest_version", "gauge", "Highest model version seen in the log", sync["newest_version"])
    text = "Age of the newest version, 0 when it is served; of the last read while the log is not read"
    page.add("sync_lag_seconds", "gauge", text, sync["lag_s"])
    page.add("sync_last_read_seconds", "gauge", "Time since the log was read, new or not", sync["last_read_s"])
    page.add(
        "sync_layered_rows", "gauge", "Ids in memory because their rows came after the bundle", sync["layered_rows"]
    )
    page.add("sync_following", "gauge", "Whether the engine follows its log, and can read it", int(sync["following"]))
    fresh, counted = sync["freshness"], 0
    for edge, count in zip([*map(str, fresh["edges_s"]), "+Inf"], fresh["counts"], strict=True):
        counted += count
        page.add("sync_freshness_seconds", "histogram", _FRESH, counted, "_bucket", le=edge)
    page.add("sync_freshness_seconds", "histogram", _FRESH, fresh["sum_s"], "_sum")
    page.add("sync_freshness_seconds", "histogram", _FRESH, counted, "_count")


class _Page:
    """The metrics of one answer: a collector that `generate_latest` asks, in the order in which they first come."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def add(self, metric: str, kind: _Kind, text: str, value: float, part: str = "", /, **labels: str) -> None:
        """Adds one sample of `pepnet_<metric>`, or of a `part` of it, such as a histogram's `_sum`."""
        name = f"pepnet_{metric}"
        if name not in self._metrics:
            self._metrics[name] = Metric(name, f"{text}.", kind)
        self._metrics[name].add_sample(f"{name}_total" if kind == "counter" else f"{name}{part}", labels, value)

    def each(
        self,
        prefix: str,
        metrics: _Table,
        stats: Mapping[str, Any],
        kind: _Kind = "counter",
        more: str = "",
        **labels: str,
    ) -> None:
        """Adds one sample for each of these metrics."""
        for key, (metric, text, *own) in metrics.items():
            self.add(f"{prefix}{metric}", kind, text + more, stats[key], **labels, **dict(*own))

    def collect(self) -> Iterable[Metric]:
        """Returns the metrics, all samples of one together."""
        return self._metrics.values()
