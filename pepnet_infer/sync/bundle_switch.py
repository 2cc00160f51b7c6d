"""The switch to a full bundle of the log, where its deltas lead no further."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf
from time import monotonic

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.errors import PepnetError, StoreError, UpdateError
from pepnet_infer.sync.entry_faults import MAY_PASS, OUT_OF_REACH, passing
from pepnet_infer.sync.logs.transport import BundleHead, Position, Transport
from pepnet_infer.sync.updater import Updater
from pepnet_infer.throttled_warnings import SeldomEach

_LOG = logging.getLogger("pepnet_infer.sync")
_AGAIN_S = 60.0  # until a bundle is tried again that failed for another reason than its content


class BundleSwitch:
    """Belongs to one follower's thread. A bundle that cannot be used is refused once, and the one before it tried."""

    def __init__(
        self,
        transport: Transport,
        updater: Updater,
        refuse: Callable[[UpdateError], None],
        taken: Callable[[], None],
    ) -> None:
        """refuse: called for each bundle that is not taken, with the reason. taken: called after one that is."""
        self._transport, self._updater, self._refuse, self._taken = transport, updater, refuse, taken
        self._errors = SeldomEach()  # tracebacks of the follower's own errors, by type
        self._refused: dict[tuple[Position, int], float] = {}  # not opened again before this time of `monotonic`

    def take(self) -> None:
        """Goes on from the newest bundle in the log that can be used, if it is ahead."""
        for head in self._transport.bundles():
            if monotonic() < self._refused.get(head[:2], 0.0):
                continue
            if head.fault is None and head.model_version <= max(self._updater.model_version, self._updater.left_behind):
                return
            if self._take(head):
                return

    def _take(self, head: BundleHead) -> bool:
        """Goes on from a bundle. Returns whether that was possible; one that is refused is not tried again."""
        try:
            there = self._put_in_place(head)
        except Exception as error:  # whatever the bundle holds: the version before goes on, and a newer bundle repairs
            if isinstance(error, UpdateError) and error.reason in OUT_OF_REACH:
                raise
            self._transport.identity()  # what went with the whole log is not the bundle's fault
            self._refused[head[:2]] = monotonic() + _AGAIN_S if _may_pass(error) else inf
            self._refuse(self._refusal(head, error))
            return False
        if there:
            self._taken()
        return there

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

    def _refusal(self, head: BundleHead, error: Exception) -> UpdateError:
        if isinstance(error, UpdateError) and error.reason != "files":
            return error
        if isinstance(error, PepnetError):
            return UpdateError.of(error, reason="bundle", within=f"bundle at {head.position}")
        if isinstance(error, MemoryError | OSError):
            return UpdateError("bundle", f"bundle at {head.position}: {error}")
        if self._errors.due(type(error).__name__):  # a log full of such bundles would fill the process's own
            _LOG.error("bundle at %s: an error of the follower", head.position, exc_info=error)
        return UpdateError("internal", f"bundle at {head.position}: {type(error).__name__}: {error}")


def _may_pass(error: Exception) -> bool:
    if isinstance(error, UpdateError):
        return error.reason in MAY_PASS
    return isinstance(error, StoreError | MemoryError) or passing(error) is not None
