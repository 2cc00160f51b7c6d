"""The check of matrices that a caller made himself, before the dense part runs on them."""

from __future__ import annotations

import math

import numpy as np

from pepnet_infer.assemble import Inputs, Matrix
from pepnet_infer.config import InputWidths
from pepnet_infer.errors import SchemaError


def check_dense_inputs(general: object, domain: object, prior: object, widths: InputWidths) -> Inputs:
    """Returns the three matrices as `Inputs`, copied only where one is not C-contiguous.

    Raises SchemaError for what is no float32 matrix in native byte order of the model's widths and one number of
    rows, and for NaN or an infinity: a relu would hide it and a wrong score come out.
    """
    first = _matrix("general", general, widths.general, None)
    rows = len(first)
    return Inputs(first, _matrix("domain", domain, widths.domain, rows), _matrix("prior", prior, widths.prior, rows))


def _matrix(name: str, given: object, width: int, rows: int | None) -> Matrix:
    if not isinstance(given, np.ndarray):
        raise SchemaError(f"{name}: expected a float32 array [rows, {width}], got {type(given).__name__}")
    if given.dtype != np.float32:
        raise SchemaError(f"{name}: expected float32, got {given.dtype}")
    if given.ndim != 2 or given.shape[1] != width:
        raise SchemaError(f"{name}: expected shape [rows, {width}], got {list(given.shape)}")
    if rows is not None and len(given) != rows:
        raise SchemaError(f"{name}: expected {rows} rows as in general, got {len(given)}")
    matrix: Matrix = np.ascontiguousarray(given)
    # A sum is finite only if every value is; it reads memory once and writes none.
    with np.errstate(over="ignore", invalid="ignore"):
        finite = math.isfinite(matrix.sum())
    if not finite and not (good := np.isfinite(matrix)).all():
        row, column = (int(i) for i in np.argwhere(~good)[0])
        raise SchemaError(
            f"{name}: expected finite values, got {matrix[row, column]} at row {row}, column {column}", row=row
        )
    return matrix
