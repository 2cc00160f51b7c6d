"""The GSET score of an id: how much of the training log it took part in, recent and positive rows counting more.

Per interval, S ← (1-β)·S + β·(r·c⁺ + c⁻), where c⁺ and c⁻ count the positive and negative rows that contain the id
(Kraken, SC '20, section 4.3). A row whose bag holds an id twice contains it twice.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pepnet_infer.export.run_config import ScoreConfig

_HOUR_MS = 3_600_000


def row_weights(
    times: npt.NDArray[np.int64], positive: npt.NDArray[np.bool_], config: ScoreConfig
) -> npt.NDArray[np.float64]:
    """Returns what one occurrence of an id in each row adds to the id's final score, float64 [N].

    The recurrence is linear: an interval `a` intervals before the last contributes β·(1-β)^a of its counts. Intervals
    are counted back from the newest of `times` (unix milliseconds, [N]), so that the last one is whole.
    """
    if times.size == 0:
        return np.zeros(0)
    age = (times.max() - times) // int(config.interval_hours * _HOUR_MS)
    counts = np.where(positive, config.weight, 1.0)
    return np.asarray(config.decay * (1.0 - config.decay) ** age * counts, np.float64)


def accumulate(
    size: int,
    weights: npt.NDArray[np.float64],
    ids: list[npt.NDArray[np.int32]],
    bags: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]],
) -> npt.NDArray[np.float64]:
    """Returns the scores of `size` codes, float64 [size].

    weights [N]: of `row_weights`. ids: code [N] per id field. bags: (codes [n], offsets [N+1]) per bag field.
    """
    scores = np.zeros(size)
    for codes in ids:
        scores += np.bincount(codes, weights=weights, minlength=size)
    for codes, offsets in bags:
        scores += np.bincount(codes, weights=np.repeat(weights, np.diff(offsets)), minlength=size)
    return scores
