"""Rows that any machine makes alike from a seed: what `parity.json` stores scores of, and `verify` scores again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pepnet_infer.assemble import Inputs
from pepnet_infer.config import InputWidths

#: Largest difference from float64 that a score in float32 may have.
TOLERANCE = 1e-5

_STREAMS = {"general": 1, "domain": 2, "prior": 3}


def normal_inputs(widths: InputWidths, rows: int, seed: int) -> Inputs:
    """Returns standard normal inputs [rows, ·]. The first n rows do not depend on how many follow."""
    return Inputs(
        general=_normal(rows, widths.general, seed, _STREAMS["general"]),
        domain=_normal(rows, widths.domain, seed, _STREAMS["domain"]),
        prior=_normal(rows, widths.prior, seed, _STREAMS["prior"]),
    )


def _normal(rows: int, width: int, seed: int, stream: int) -> npt.NDArray[np.float32]:
    """Box-Muller on the raw words of Philox, a stream that NumPy keeps from version to version, unlike `normal`'s."""
    raw = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)).random_raw(2 * rows * width)
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # inside (0, 1)
    first, second = uniform.reshape(-1, 2).T
    normal = np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)
    return normal.astype(np.float32).reshape(rows, width)
