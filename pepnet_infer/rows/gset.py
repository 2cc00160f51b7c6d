"""GSET's score of an id: how many training samples contained it, recent and positive ones counting more.

Per interval n = floor(unix seconds / interval), S ← (1-β)·S + β·(r·c⁺ + c⁻), where c⁺ and c⁻ count the positive and
negative samples that contain the id (Kraken, SC '20, section 4.3). A sample whose bag holds an id twice contains it
twice. This is the one implementation of the recurrence in Python; `kernels/cache/gset.h` is the one in C++.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from pepnet_infer.validation import NotNegative, Options, Positive


class Gset(Options, frozen=True):
    """The recurrence's constants. Raises ConfigError for values out of range."""

    beta: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    r: NotNegative = 3.0
    interval: Positive = 86400.0  #: seconds

    def interval_of(self, seconds: npt.ArrayLike) -> Any:
        """Returns the number of the interval of each moment, unix seconds: float64 of the same shape, whole numbers."""
        return np.floor(np.asarray(seconds, np.float64) / self.interval)

    def decayed(self, scores: npt.ArrayLike, intervals: npt.ArrayLike) -> Any:
        """Returns scores after so many intervals without samples; a clock that went back takes nothing off."""
        return np.asarray(scores) * (1.0 - self.beta) ** np.maximum(intervals, 0.0)

    def gain(self, positive: npt.ArrayLike, negative: npt.ArrayLike) -> Any:
        """Returns what so many positive and negative samples within an interval add to a score."""
        return self.beta * (self.r * np.asarray(positive, np.float64) + np.asarray(negative, np.float64))

    def weights(
        self, seconds: npt.NDArray[Any], positive: npt.NDArray[np.bool_], now: float
    ) -> npt.NDArray[np.float64]:
        """Returns what one sample at each moment, positive or not, adds to a score as of `now`: float64 [N].

        The recurrence is linear: a sample of `a` intervals ago contributes β·(1-β)^a of its count.
        """
        age = self.interval_of(now) - self.interval_of(seconds)
        return np.asarray(self.decayed(self.gain(positive, ~positive), age), np.float64)
