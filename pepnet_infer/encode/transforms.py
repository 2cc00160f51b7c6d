"""What `schema.Transform` does to numbers, in float64 and int64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import signed_log1p
from pepnet_infer.schema.feature_schema import Transform

Integers = npt.NDArray[np.int64] | npt.NDArray[np.uint64]

#: Transforms of unix milliseconds: they read integers.
OF_TIME = ("hour", "weekday")

_HOUR = 3_600_000
_DAY = 24 * _HOUR
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday counts as 0


def of_time(transform: Transform, milliseconds: Integers) -> npt.NDArray[np.int64]:
    """Returns the hour of day (0 to 23) or the weekday (0 to 6) of unix `milliseconds`."""
    # Shift what is left of the day, not the whole value: an int64 near its end would wrap.
    days, rest = (part.astype(np.int64) for part in np.divmod(milliseconds, milliseconds.dtype.type(_DAY)))
    rest = rest + round(transform.utc_offset * _HOUR)
    if transform.op == "hour":
        return rest % _DAY // _HOUR
    return (days + rest // _DAY + _EPOCH_WEEKDAY) % 7


def bucketize(transform: Transform, values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Returns how many boundaries are at or below each value: interval i is [boundary i-1, boundary i)."""
    return np.searchsorted(np.asarray(transform.boundaries, dtype=np.float64), values, side="right")


def log1p(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns sign(x)·log(1 + |x|), the same bits for a value on every machine; NumPy's are not."""
    return signed_log1p(values)
