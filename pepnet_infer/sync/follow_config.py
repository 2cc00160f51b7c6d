"""How an engine follows what is published."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pepnet_infer.errors import ConfigError, UpdateError
from pepnet_infer.sync.logs.transport import check_follower
from pepnet_infer.validation import Count, NotNegative, Options, Several

#: Of seconds; `close` may have to wait for as long.
Wait = Annotated[float, Meta(gt=0, le=3600)]


class Guard(Options, frozen=True):
    """When new dense weights are refused: what a kept sample of recent rows is scored by old and new weights.

    mean: of a task's scores, how far it may move. psi: population stability index of a task, from the scores' deciles
    under the old weights; 0.25 is a shift by the usual rule. Below `least_rows` in the sample nothing is refused, which
    is counted. Raises ConfigError for values out of range.
    """

    mean: NotNegative = 0.1
    psi: NotNegative = 0.25
    rows: Several = 256  #: kept at most: all are scored twice before a swap
    least_rows: Several = 200
    batch_rows: Several = 64  #: taken of one call at most
    every_s: NotNegative = 0.1  #: between two calls of which some are kept

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least_rows > self.rows:
            raise ConfigError(f"least_rows: expected no more than rows, {self.rows}, got {self.least_rows}")


class FollowConfig(Options, frozen=True):
    """Raises ConfigError for values out of range."""

    #: Who this is among the log's followers: what one of them has not read is not trimmed, so that each needs a name of
    #: its own. None: the host's, the process's and a number.
    name: str | None = None
    wait_s: Wait = 1.0  #: how long one question to the log waits for something new
    keep: Count = 4  #: versions that `rollback` can go back: their weights stay in memory, and the rows they changed
    #: Of rows that come with a delta: "resident" writes only those whose ids are in the cache, "all" writes all, "auto"
    #: is "all" where the policy is gset, whose scores say what is worth a place, and else "resident".
    insert: Literal["auto", "resident", "all"] = "auto"
    #: Where rows are that the cache lacks. "store": in the store behind it, those that came since beside it. "cache":
    #: nowhere; such an id has the default row from the start until its row is published again, as in a parameter server
    #: with memory for some of its rows. Needs insert "all" and keep 0.
    rows: Literal["store", "cache"] = "store"
    guard: Guard | None = msgspec.field(default_factory=Guard)  #: None: every delta that passes its checks goes live
    retry_s: Wait = 1.0  #: after a log that could not be reached
    #: Of one CPU, that taking a delta may use while calls are scored: it rests in between, for a third of a second at
    #: most, and not at the start, nor when more than one delta waits. 1: as fast as it can.
    share: Annotated[float, Meta(gt=0, le=1)] = 0.15
    #: Of all files of a delta at most: it is read into memory whole. A larger one is refused.
    max_delta_bytes: Several = 4 << 30

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is not None:
            with ConfigError.in_place_of(UpdateError):
                check_follower(self.name)
        if self.rows == "cache" and (self.insert != "all" or self.keep != 0):
            got = f"insert {self.insert!r} and keep {self.keep!r}"
            raise ConfigError(f"rows: expected insert 'all' and keep 0 with 'cache', got {got}")
