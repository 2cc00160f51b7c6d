"""Arrays of float32 that a caller made himself, checked before kernels read them where they lie."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import SchemaError

Floats = npt.NDArray[np.float32]


def float_array(name: str, given: object, shape: str = "") -> Floats:
    """Returns an array as none of NumPy's subclasses, copied only where it is not C-contiguous and aligned.

    Raises SchemaError for what is no float32 array in native byte order, and where a value is masked. `shape` is said
    of what was expected.
    """
    if not isinstance(given, np.ndarray):
        raise SchemaError(f"{name}: expected a float32 array{shape}, got {type(given).__name__}")
    if given.dtype != np.float32:
        raise SchemaError(f"{name}: expected float32, got {given.dtype}")
    if isinstance(given, np.ma.MaskedArray) and (hidden := int(np.ma.getmaskarray(given).sum())):
        raise SchemaError(f"{name}: expected no masked values, got {hidden}")
    return np.require(np.asarray(given), requirements=("C", "A"))
