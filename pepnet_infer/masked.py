"""Masked arrays where numbers are computed with as they stand: what a mask hides is no value."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import SchemaError


def without_mask(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns `array`, not copied, as none of NumPy's subclasses. Raises SchemaError where a value is masked."""
    if type(array) is np.ndarray:
        return array
    if isinstance(array, np.ma.MaskedArray) and (hidden := int(np.ma.getmaskarray(array).sum())):
        raise SchemaError(f"{name}: expected no masked values, got {hidden}")
    return np.asarray(array)
