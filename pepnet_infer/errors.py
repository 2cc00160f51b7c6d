"""The error tree. Every message says what was expected, what came, and where."""

from __future__ import annotations


class PepnetError(Exception):
    """Base of every error this package raises on purpose."""


class SchemaError(PepnetError):
    """A column, a value or a schema does not fit what the model was built for."""


class BundleError(PepnetError):
    """A bundle or checkpoint is missing, damaged, newer than this code, or failed parity."""


class BackendError(PepnetError):
    """A backend, provider, precision or instruction set was asked for that is not there."""


class StoreError(PepnetError):
    """The store that holds the embedding rows cannot answer."""


class UpdateError(PepnetError):
    """An update to rows or weights was refused."""
