"""The check of matrices that a caller made himself, before the dense part runs on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pepnet_infer.backends.protocol import Backend, DeviceBackend, MatrixBackend
from pepnet_infer.errors import BackendError, SchemaError
from pepnet_infer.masked_arrays import without_mask
from pepnet_infer.schema.inputs import Inputs, Matrix
from pepnet_infer.schema.network_config import InputWidths

_FLOAT32 = np.dtype(np.float32)

DenseCall = Callable[[Matrix, Matrix, Matrix], Matrix]


def dense_call(backend: Backend, widths: InputWidths) -> DenseCall:
    """Returns general, domain, prior → scores of `backend`, with the checks of `check_dense_inputs`.

    What a `MatrixBackend` refuses is looked at once more, to be copied or to say what is wrong.
    """

    def checked(general: Matrix, domain: Matrix, prior: Matrix) -> Matrix:
        return backend.run(check_dense_inputs(general, domain, prior, widths))

    if not isinstance(backend, MatrixBackend):
        return checked
    direct = backend.run_matrices

    def call(general: Matrix, domain: Matrix, prior: Matrix) -> Matrix:
        try:
            return direct(general, domain, prior)
        except (TypeError, ValueError):
            return checked(general, domain, prior)

    return call


def run_on_device(backend: Backend, general: object, domain: object, prior: object, out: object, stream: int) -> int:
    """Returns what `DeviceBackend.run_on_device` does. Raises BackendError where the backend is none."""
    if not isinstance(backend, DeviceBackend):
        wanted = "expected the native backend on a GPU, which scores arrays where they are"
        raise BackendError(f"out: {wanted}, got {backend.name} on {backend.describe()['device']}")
    return backend.run_on_device(general, domain, prior, out, stream)


def check_dense_inputs(general: object, domain: object, prior: object, widths: InputWidths) -> Inputs:
    """Returns the three matrices as `Inputs`, copied only where one is not C-contiguous and aligned.

    Values are not looked at: NaN and infinities go their way through the network, as IEEE 754 says. Raises SchemaError
    for what is no float32 matrix in native byte order of the model's widths and one number of rows, or is masked.
    """
    first = _matrix("general", general, widths.general)
    rows = len(first)
    second, third = _matrix("domain", domain, widths.domain), _matrix("prior", prior, widths.prior)
    if len(second) != rows:
        raise SchemaError(f"domain: expected {rows} rows as in general, got {len(second)}")
    if len(third) != rows:
        raise SchemaError(f"prior: expected {rows} rows as in general, got {len(third)}")
    return Inputs(first, second, third)


def _matrix(name: str, given: object, width: int) -> Matrix:
    if not isinstance(given, np.ndarray):
        raise SchemaError(f"{name}: expected a float32 array [rows, {width}], got {type(given).__name__}")
    if given.dtype is not _FLOAT32 and given.dtype != _FLOAT32:
        raise SchemaError(f"{name}: expected float32, got {given.dtype}")
    if given.ndim != 2 or given.shape[1] != width:
        raise SchemaError(f"{name}: expected shape [rows, {width}], got {list(given.shape)}")
    plain = without_mask(name, given)
    flags = plain.flags
    if flags.c_contiguous and flags.aligned:
        return plain
    return np.require(plain, requirements=("C", "A"))
