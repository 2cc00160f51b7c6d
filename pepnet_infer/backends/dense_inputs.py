"""The check of matrices that a caller made himself, before the dense part runs on them."""

from __future__ import annotations

from collections.abc import Callable

from pepnet_infer.backends.protocol import Backend, MatrixBackend
from pepnet_infer.errors import SchemaError
from pepnet_infer.float_arrays import float_array
from pepnet_infer.schema.inputs import Inputs, Matrix
from pepnet_infer.schema.network_config import InputWidths

DenseCall = Callable[[Matrix, Matrix, Matrix], Matrix]


def dense_call(backend: Backend, widths: InputWidths) -> DenseCall:
    """Returns general, domain, prior → scores of `backend`; a matrix that is not C-contiguous and aligned is copied.

    Values are not looked at: NaN and infinities go their way through the network, as IEEE 754 says. The call raises
    SchemaError for what is no float32 matrix in native byte order of the model's `widths` and one number of rows, or
    is masked. What a `MatrixBackend` refuses is looked at once more, to be copied or to say what is wrong.
    """

    def checked(general: Matrix, domain: Matrix, prior: Matrix) -> Matrix:
        first = float_array("general", general, ("rows", widths.general))
        second = float_array("domain", domain, ("rows", widths.domain))
        third = float_array("prior", prior, ("rows", widths.prior))
        for name, matrix in (("domain", second), ("prior", third)):
            if len(matrix) != len(first):
                raise SchemaError(f"{name}: expected {len(first)} rows as in general, got {len(matrix)}")
        return backend.run(Inputs(first, second, third))

    if not isinstance(backend, MatrixBackend):
        return checked
    direct = backend.run_matrices

    def call(general: Matrix, domain: Matrix, prior: Matrix) -> Matrix:
        try:
            return direct(general, domain, prior)
        except (TypeError, ValueError):
            return checked(general, domain, prior)

    return call
