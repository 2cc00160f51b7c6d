"""Periodic checks that the files of a bundle in use are still those that were loaded."""

from __future__ import annotations

import logging
from time import perf_counter_ns

from pepnet_infer.bundle.bundle import Bundle

#: Seconds between two looks of an engine that scores: some ten microseconds of one call.
EVERY_S = 30.0

_LOG = logging.getLogger("pepnet_infer")


class BundleWatch:
    """Of one engine. An engine whose rows are all in its cache never reads its files, and serves on.

    Any thread may look; two that do so at one moment may both warn.
    """

    def __init__(self) -> None:
        self.due = perf_counter_ns() + int(EVERY_S * 1e9)  #: when a call looks next, of `perf_counter_ns`
        self._said: object = None  # the files of which a change was warned of last

    def look(self, bundle: Bundle) -> tuple[str, str]:
        """Returns "as loaded", "replaced" or "changed", and which file; warns of a change, once a bundle."""
        self.due = perf_counter_ns() + int(EVERY_S * 1e9)  # first: of other calls none looks meanwhile
        state, file = bundle.changed() or ("as loaded", "")
        if state == "changed" and self._said is not bundle.files:  # later weights leave the files as they are
            self._said = bundle.files
            _LOG.warning("%s: %s was changed in place; replace a bundle that is served by rename", bundle.path, file)
        return state, file
