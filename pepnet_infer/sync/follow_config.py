"""How an engine follows what is published."""

from __future__ import annotations

import math
import os
import socket
from dataclasses import dataclass, field
from typing import Literal

from pepnet_infer.errors import UpdateError


@dataclass(frozen=True)
class Guard:
    """When new dense weights are refused: what a kept sample of recent rows is scored by old and new weights.

    mean: of a task's scores, how far it may move. psi: population stability index of a task, from the scores' deciles
    under the old weights; 0.25 is a shift by the usual rule. Below `least_rows` in the sample nothing is refused, which
    is counted.
    """

    mean: float = 0.1
    psi: float = 0.25
    rows: int = 256  #: kept at most: all are scored twice before a swap
    least_rows: int = 200
    batch_rows: int = 64  #: taken of one call at most
    every_s: float = 0.1  #: between two calls of which some are kept

    def __post_init__(self) -> None:
        for name in ("mean", "psi", "every_s"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise UpdateError("config", f"guard.{name}: expected a number from 0, got {value!r}")
        for name in ("rows", "least_rows", "batch_rows"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise UpdateError("config", f"guard.{name}: expected an integer from 1, got {getattr(self, name)!r}")


def _name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


@dataclass(frozen=True)
class FollowConfig:
    """Raises UpdateError for values out of range."""

    name: str = field(default_factory=_name)  #: who this is among the log's followers
    wait_s: float = 1.0  #: how long one question to the log waits for something new
    keep: int = 4  #: versions that `rollback` can go back: their weights stay in memory, and the rows they changed
    #: Of rows that come with a delta: "resident" writes only those whose ids are in the cache, "all" writes all, "auto"
    #: is "all" where the policy is gset, whose scores say what is worth a place, and else "resident".
    insert: Literal["auto", "resident", "all"] = "auto"
    #: Where rows are that the cache lacks. "store": in the store behind it, those that came since beside it. "cache":
    #: nowhere; such an id has the default row from the start until its row is published again, as in a parameter server
    #: with memory for some of its rows. Needs insert "all" and keep 0.
    rows: Literal["store", "cache"] = "store"
    guard: Guard | None = field(default_factory=Guard)  #: None: every delta that passes its checks goes live
    retry_s: float = 1.0  #: after a log that could not be reached
    #: Of one CPU, that taking a delta may use while calls are scored: it rests in between, for a third of a second at
    #: most, and not at the start, nor when more than one delta waits. 1: as fast as it can.
    share: float = 0.15
    #: Of all files of a delta at most: it is read into memory whole. A larger one is refused.
    max_delta_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        if self.insert not in ("auto", "resident", "all"):
            raise UpdateError("config", f"insert: expected auto, resident or all, got {self.insert!r}")
        if self.rows not in ("store", "cache"):
            raise UpdateError("config", f"rows: expected store or cache, got {self.rows!r}")
        if self.rows == "cache" and (self.insert != "all" or self.keep != 0):
            got = f"insert {self.insert!r} and keep {self.keep!r}"
            raise UpdateError("config", f"rows: expected insert 'all' and keep 0 with 'cache', got {got}")
        if not (isinstance(self.keep, int) and self.keep >= 0):
            raise UpdateError("config", f"keep: expected an integer from 0, got {self.keep!r}")
        if not (isinstance(self.max_delta_bytes, int) and self.max_delta_bytes >= 1):
            raise UpdateError("config", f"max_delta_bytes: expected an integer from 1, got {self.max_delta_bytes!r}")
        if not (isinstance(self.share, int | float) and 0 < self.share <= 1):
            raise UpdateError("config", f"share: expected a number above 0, up to 1, got {self.share!r}")
        for name in ("wait_s", "retry_s"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise UpdateError("config", f"{name}: expected seconds above 0, got {value!r}")
