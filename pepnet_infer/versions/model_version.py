"""Which version of the model an engine serves. A call pins one from its first lookup to its last score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from pepnet_infer._kernels import Pins
from pepnet_infer.backends.dense_inputs import DenseCall, dense_call
from pepnet_infer.backends.protocol import Backend, DeviceBackend, FeatureScorer
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.encode.request import RequestReader
from pepnet_infer.process import forks
from pepnet_infer.process.pace import wait_for
from pepnet_infer.rows.assemble import Assembler
from pepnet_infer.rows.protocols import RowSource, identity_of
from pepnet_infer.rows.version_rows import cache_of
from pepnet_infer.version import __version__


@dataclass(frozen=True)
class ModelVersion:
    """Everything that scores of one version are made of. Never changed: a later version is another one."""

    bundle: Bundle
    encoder: Encoder
    requests: RequestReader
    assembler: Assembler
    rows: RowSource
    backend: Backend
    dense: DenseCall
    #: scores features where their rows are; None: rows come from `assembler`
    features: FeatureScorer | None = None
    #: the deltas that led here from the bundle, as a hash; "": none; None: rows among them expire, so that time counts
    applied: str | None = ""

    @property
    def model_version(self) -> int:
        """Of rows and weights alike."""
        return self.bundle.model_version

    @classmethod
    def of(cls, bundle: Bundle, rows: RowSource, backend: Backend) -> ModelVersion:
        """Puts together what scores `bundle` with its rows and its dense part."""
        sides = bundle.sides()
        return cls(
            bundle,
            Encoder(bundle.schema, sides),
            RequestReader(bundle.schema, sides),
            Assembler(bundle.schema, rows),
            rows,
            backend,
            dense_call(backend, bundle.config.inputs),
            _feature_scorer(bundle, rows, backend),
        )

    def with_rows(self, rows: RowSource) -> ModelVersion:
        """Returns the same with rows from elsewhere."""
        scorer = _feature_scorer(self.bundle, rows, self.backend)
        return replace(self, rows=rows, assembler=Assembler(self.bundle.schema, rows), features=scorer)

    def identity(self) -> dict[str, Any]:
        """Returns what scores depend on beside the batch, as plain JSON values.

        model_version, schema_hash; weights (a hash over the config and the bundle's files); domain (a hash over the
        inputs that bf16 or int8 was measured on: other rows are scored in fp32); tool (our version); backend, version,
        provider (the kind of device), precision, isa and how (kernels differ in the last bits); cached_rows, where the
        cache rounds rows: all of its options, for what it keeps decides which rows are rounded; rows: where they come
        from and what was applied to them since, None where that is not known, and then no two scores can be said to be
        the same.
        """
        bundle, backend = self.bundle, self.backend.describe()
        found: dict[str, Any] = {
            "model_version": bundle.model_version,
            "schema_hash": bundle.schema.hash,
            "weights": bundle.digests["weights"],
            "tool": __version__,
            **{name: backend.get(name) for name in ("backend", "version", "precision")},
            # the key in the files that were scored so far
            "provider": "tensorrt" if backend.get("tensorrt") else backend["device"].partition(":")[0],
            **{name: backend[name] for name in ("isa", "how") if name in backend},
            "rows": identity_of(self.rows) if self.applied is not None else None,
        }
        if found["rows"] is not None and self.applied:
            found["rows"] += f" {self.applied}"
        if "domain" in backend:
            found["domain"] = bundle.digests[backend["precision"]]
        rows = cache_of(self.rows)
        if rows is not None and rows.config.dtype != "float32":
            found["cached_rows"] = msgspec.to_builtins(rows.config)  # with float32 scores are those without a cache
        return found


def _feature_scorer(bundle: Bundle, rows: RowSource, backend: Backend) -> FeatureScorer | None:
    return backend.feature_scorer(bundle, rows) if isinstance(backend, DeviceBackend) else None


if TYPE_CHECKING:
    _Pins = Pins[ModelVersion]
else:
    _Pins = Pins  # which is of C++


class Versions(_Pins):
    """The version that new calls get, and older ones that calls are still using. Any thread may ask at any time.

    Versions are numbered in the order they were put in place, so that what an older one reads can be let go of when no
    call uses a lower number; one that is put with `same`, which serves what the newest does, only from elsewhere, has
    its number. A call goes through `use`: its hold on its version ends with it, whatever interrupts it. See
    `kernels/python/pins.cc`.
    """

    def __init__(self, served: ModelVersion) -> None:
        super().__init__(served)
        forks.register(forks.Stage.VERSIONS, child=self.reset)  # calls under way are the parent's

    def wait_until(self, number: int, timeout_s: float) -> bool:
        """Waits until no call uses a version below `number`. Returns whether that is so."""
        return wait_for(lambda: self.oldest() >= number, timeout_s)
