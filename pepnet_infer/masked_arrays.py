"""NumPy's masked arrays: refused where numbers are read without their mask."""

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
