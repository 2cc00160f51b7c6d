"""How an engine was asked to be loaded: all that is needed to do the same with another version."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pepnet_infer.backends.create import create_backend
from pepnet_infer.backends.protocol import Backend
from pepnet_infer.bundle.bundle import Bundle, Check
from pepnet_infer.errors import BundleError, StoreError
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.rows.protocols import RowSource, Store

_PICKLERS = ("cloudpickle", "ray.cloudpickle", "pyspark.cloudpickle", "joblib.externals.cloudpickle", "dill")


@dataclass(frozen=True)
class Loading:
    """The arguments of `Engine.load`."""

    backend: str
    precision: str
    threads: int | None
    device: str
    cache: CacheConfig | Literal["default"] | None
    store: RowSource | Store | None
    options: Mapping[str, object]
    check: Check = "full"

    def open_bundle(self, path: str | os.PathLike[str], digest: str | None = None) -> Bundle:
        """Opens the bundle at `path`. Raises BundleError, also unless it is the one that `digest_of` said this of."""
        bundle = Bundle.open(path, self.check)
        if digest is not None and digest_of(bundle) != digest:
            raise BundleError(
                f"{bundle.path}: expected the bundle that the engine had when it was pickled, got another, of model "
                f"version {bundle.model_version}: load the engine from it, and pickle that one"
            )
        return bundle

    def check_pickles(self) -> None:
        """Raises StoreError where the store cannot go to another process."""
        # Spark, Ray and joblib send functions and classes that have no name to find them by. Which of them asks is not
        # to be seen from `__reduce__`.
        more = [module for name in _PICKLERS if (module := sys.modules.get(name)) is not None]
        for pickler in (pickle, *more[:1]):
            try:
                pickler.dumps(self.store)
                return
            except Exception as error:  # of a user's store: whatever it raises, or pickle does for what it holds
                refused = error
        raise StoreError(
            f"store: {type(self.store).__name__} does not pickle ({refused}), so that an engine with it does not: "
            "load the engine in each worker, or give the store a __reduce__ that opens it anew"
        ) from refused

    def dense(self, bundle: Bundle) -> Backend:
        """Returns what runs the dense part of `bundle`. Raises what `create_backend` raises."""
        return create_backend(bundle, self.backend, self.precision, self.threads, self.device, self.options)


def digest_of(bundle: Bundle) -> str:
    """Returns a hash of the manifest, and so of all files of a bundle."""
    return hashlib.sha256(json.dumps(dict(bundle.manifest), sort_keys=True).encode()).hexdigest()
