"""Updates on their way into the cache, limited per id.

An item that is trained on a thousand times a minute need not be written a thousand times a minute. Versions decide in
the cache which row is newer, so that holding one back changes when it is seen, and never what is there in the end.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from pepnet_infer import _kernels
from pepnet_infer.checked import Options, Positive

_MOST_PENDING = 1 << 28


class UpdateWindow(Options, frozen=True):
    """How often an id is written. Raises ConfigError for values out of range.

    mode "limit": the first `limit` updates of an id in an interval are applied at once; later ones are held, the
    newest version of each id only, and applied when the interval ends, where each is the next interval's first. mode
    "after_expiry": an update is applied only to an id whose row has expired or is not there, else it is dropped;
    deletions always apply.
    """

    interval: Positive  #: seconds; intervals are those of the clock, floor(now / interval)
    limit: Annotated[int, Meta(ge=1, le=2**32 - 1)] = 1  #: applications per id and interval
    mode: Literal["limit", "after_expiry"] = "limit"
    #: Rows held at most. When there is no place, the one held longest is applied early. Of four times as many ids the
    #: updates are counted; what comes beyond that in one interval is not limited.
    max_pending: Annotated[int, Meta(ge=1, le=_MOST_PENDING)] = 1 << 16


class WindowedUpdates:
    """A window in front of a cache. Safe to call from many threads: updates take turns, lookups are not concerned."""

    def __init__(self, core: _kernels.RowCache, window: UpdateWindow) -> None:
        self.window = window
        self._window = _kernels.UpdateWindow(
            core,
            float(window.interval),
            window.limit,
            window.mode == "after_expiry",
            window.max_pending,
        )

    def apply(
        self,
        keys: _kernels.Keys,
        rows: npt.NDArray[np.float32],
        versions: _kernels.Keys,
        scores: npt.NDArray[np.float32] | None = None,
        expires: npt.NDArray[np.float64] | None = None,
    ) -> int:
        """Takes updates as `RowCache.write` does, rows float32 [N, dim]. Returns how many of them were applied now.

        What was held in an interval that has ended is applied first.
        """
        return self._window.apply(keys, rows, versions, scores, expires)

    def delete(
        self, keys: _kernels.Keys, versions: _kernels.Keys, expires: npt.NDArray[np.float64] | None = None
    ) -> int:
        """Takes deletions as `RowCache.erase` does; they are limited like updates. Returns how many applied now."""
        return self._window.erase(keys, versions, expires)

    def flush(self, now: float | None = None) -> int:
        """Applies what is held and returns how many of it applied.

        None: everything. A time, in Unix seconds by the cache's clock: only what was held in an interval other than
        that one's, which is what a background tick calls so that held rows do not wait for the next update.
        """
        return self._window.flush(now)

    def stats(self) -> dict[str, int]:
        """Returns counters since the start, and `pending`: how many are held now.

        applied; stale (refused as not newer); rejected (by the cache's admission); held (held back, whatever became
        of them); coalesced (met a held one of their id, of which the newer was kept); early (of those held: applied
        to make room); untracked (applied without limit, because no more ids could be counted); dropped (with
        after_expiry).
        """
        return self._window.stats()
