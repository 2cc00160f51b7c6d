"""The switch to a full bundle of the log, where its deltas lead no further."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf
from time import monotonic

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.errors import StoreError, UpdateError
from pepnet_infer.sync.entry_faults import MAY_PASS, OUT_OF_REACH, passing, refusal
from pepnet_infer.sync.logs.transport import BundleHead, Position, Transport
from pepnet_infer.sync.updater import Updater
from pepnet_infer.throttled_warnings import Seldom

_LOG = logging.getLogger("pepnet_infer.sync")
_AGAIN_S = 60.0  # until a bundle is tried again that failed for another reason than its content


class BundleSwitch:
    """Belongs to one follower's thread. A bundle that cannot be used is refused once, and the one before it tried."""

    def __init__(self, transport: Transport, updater: Updater, refuse: Callable[[UpdateError], None]) -> None:
        """refuse: called for each bundle that is not taken, with the reason."""
        self._transport, self._updater, self._refuse = transport, updater, refuse
        self._errors = Seldom()  # tracebacks of the follower's own errors, by type
        self._refused: dict[tuple[Position, int], float] = {}  # not opened again before this time of `monotonic`

    def take(self) -> bool:
        """Goes on from the newest bundle in the log that can be used, if it is ahead. Returns whether there was one."""
        for head in self._transport.bundles():
            if monotonic() < self._refused.get(head[:2], 0.0):
                continue
            if head.fault is None and head.model_version <= max(self._updater.model_version, self._updater.left_behind):
                return False
            try:
                if self._put_in_place(head):
                    return True
            except Exception as error:  # whatever the bundle holds: the version before goes on, a newer bundle repairs
                self._refuse_bundle(head, error)
        return False

    def _put_in_place(self, head: BundleHead) -> bool:
        if head.fault is not None:
            raise head.fault
        entry = self._transport.bundle(head.position)
        if entry is None:
            if any(head.position == there.position for there in self._transport.bundles()):
                raise UpdateError("unreadable", f"bundle at {head.position}: expected what the log lists, got nothing")
            return False  # trimmed meanwhile: there is a newer one
        bundle = Bundle.open(entry.path)
        if bundle.model_version != head.model_version:
            got = f"{bundle.model_version}, and {head.model_version} where it is listed"
            raise UpdateError("bundle", f"{entry.path}: model_version: expected one, got {got}")
        self._updater.replace_bundle(bundle)
        return True

    def _refuse_bundle(self, head: BundleHead, error: Exception) -> None:
        """Refuses a bundle, which is not tried again soon. Raises `error` where the log is out of reach."""
        if isinstance(error, UpdateError) and error.reason in OUT_OF_REACH:
            raise error
        self._transport.identity()  # what went with the whole log is not the bundle's fault
        where = f"bundle at {head.position}"
        if isinstance(error, MemoryError | OSError):
            refused = UpdateError("bundle", f"{where}: {error}")
        elif isinstance(error, UpdateError) and error.reason == "files":
            refused = UpdateError.of(error, reason="bundle", within=where)
        else:
            refused = refusal(where, error, "bundle")
        may_pass = (
            refused.reason in MAY_PASS or isinstance(error, StoreError | MemoryError) or passing(error) is not None
        )
        self._refused[head[:2]] = monotonic() + _AGAIN_S if may_pass else inf
        if refused.reason == "internal" and self._errors.due(type(error).__name__):  # a log may be full of such bundles
            _LOG.error("%s: an error of the follower", where, exc_info=error)
        self._refuse(refused)
