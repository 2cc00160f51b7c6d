"""Backends that have rows of their own, beside the host's: what scores features where their rows are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pepnet_infer.rows.protocols import Rows, RowSource

if TYPE_CHECKING:
    from pepnet_infer.backends.protocol import Backend
    from pepnet_infer.bundle.bundle import Bundle
    from pepnet_infer.encode.features import Features


class FeatureScorer(Protocol):
    """Features → scores."""

    #: of `Beside`, when what it serves was put in place
    epoch: int

    def score(self, features: Features, shared: Features | None = None) -> tuple[Rows, dict[str, int], dict[str, int]]:
        """Returns scores float32 [B, T] and, by field, how many ids are unknown and how many unavailable."""
        ...


def feature_scorer(bundle: Bundle, rows: RowSource, backend: Backend) -> FeatureScorer | None:
    """Returns what scores features of `bundle` with rows on the backend's device, None where they stay on the host.

    Raises BackendError when they cannot be there.
    """
    make: Callable[[Bundle, RowSource], FeatureScorer | None] | None = getattr(backend, "feature_scorer", None)
    return None if make is None else make(bundle, rows)
