"""Which version of the model an engine serves. A call pins one from its first lookup to its last score."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from time import monotonic, sleep
from typing import TYPE_CHECKING

from pepnet_infer._kernels import Pins
from pepnet_infer.backends.dense_inputs import DenseCall, dense_call
from pepnet_infer.backends.protocol import Backend, DeviceBackend, FeatureScorer
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.encode.request import RequestReader
from pepnet_infer.process import forks
from pepnet_infer.rows.assemble import Assembler
from pepnet_infer.rows.protocols import RowSource

_LOOK_AGAIN_S = 0.002  # a rollback waits for calls under way: nothing has to be told when one ends


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
    #: of rows and weights alike
    model_version: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model_version", self.bundle.model_version)

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


def _feature_scorer(bundle: Bundle, rows: RowSource, backend: Backend) -> FeatureScorer | None:
    return backend.feature_scorer(bundle, rows) if isinstance(backend, DeviceBackend) else None


if TYPE_CHECKING:
    _Pins = Pins[ModelVersion]
else:
    _Pins = Pins  # which is of C++


class Versions(_Pins):
    """The version that new calls get, and older ones that calls are still using. Any thread may ask at any time.

    Versions are numbered in the order they were put in place, so that what an older one reads can be let go of when no
    call uses a lower number. A call goes through `use`: its hold on its version ends with it, whatever interrupts it.
    See `kernels/python/pins.cc`.
    """

    def __init__(self, served: ModelVersion) -> None:
        super().__init__(served)
        forks.register(forks.Stage.VERSIONS, child=self.reset_after_fork)

    def put(self, served: ModelVersion, same: bool = False) -> int:
        """Gives `served` to all calls that begin from here on. Returns its number.

        same: it serves what the newest does, only from elsewhere, and has its number.
        """
        return super().put(served, same)

    def wait_until(self, number: int, timeout_s: float) -> bool:
        """Waits until no call uses a version below `number`. Returns whether that is so."""
        ends = monotonic() + timeout_s
        while self.oldest() < number:
            left = ends - monotonic()
            if left <= 0:
                return False
            sleep(min(_LOOK_AGAIN_S, left))
        return True

    def reset_after_fork(self) -> None:
        """In a child process: calls under way are the parent's."""
        self.reset()
