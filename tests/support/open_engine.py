"""An engine whose versions a test may look at: which one calls get, and how many calls are under way."""

from __future__ import annotations

from pepnet_infer import Engine
from pepnet_infer.versions.model_version import Versions


class OpenEngine(Engine):
    """Shows to tests what `Engine` keeps for its own methods."""

    @property
    def versions(self) -> Versions:
        """What calls use. Raises ClosedError."""
        return self._serving()
