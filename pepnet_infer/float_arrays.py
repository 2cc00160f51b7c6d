"""Arrays of float32 that a caller made himself, checked before kernels read them where they lie."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import SchemaError

Floats = npt.NDArray[np.float32]
_FLOAT32 = np.dtype(np.float32)


def float_array(name: str, given: object, *shapes: tuple[int | str, ...]) -> Floats:
    """Returns an array as none of NumPy's subclasses, copied only where it is not C-contiguous and aligned.

    Raises SchemaError for what is no float32 array in native byte order of one of the `shapes`, in which text stands
    for any length, and where a value is masked.
    """
    if not isinstance(given, np.ndarray):
        raise SchemaError(f"{name}: expected a float32 array {_in_words(shapes)}, got {type(given).__name__}")
    if given.dtype != _FLOAT32:
        raise SchemaError(f"{name}: expected float32, got {given.dtype}")
    if isinstance(given, np.ma.MaskedArray) and (hidden := int(np.ma.getmaskarray(given).sum())):
        raise SchemaError(f"{name}: expected no masked values, got {hidden}")
    if not any(_fits(given.shape, shape) for shape in shapes):
        raise SchemaError(f"{name}: expected shape {_in_words(shapes)}, got {list(given.shape)}")
    array = np.asarray(given)
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else np.require(array, requirements=("C", "A"))


def _in_words(shapes: Iterable[tuple[int | str, ...]]) -> str:
    return " or ".join("[" + ", ".join(map(str, shape)) + "]" for shape in shapes)


def _fits(got: tuple[int, ...], shape: tuple[int | str, ...]) -> bool:
    return len(got) == len(shape) and all(isinstance(n, str) or n == m for n, m in zip(shape, got, strict=True))
