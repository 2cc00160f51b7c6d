"""The newest full bundle of a log, as who goes on from it fetches it."""

from __future__ import annotations

from pepnet_infer.sync.logs.transport import Entry, Transport


def newest_bundle(log: Transport) -> Entry | None:
    last = log.last_bundle()
    return None if last is None else log.bundle(last[0])
