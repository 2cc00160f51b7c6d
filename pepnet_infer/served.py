"""Which version of the model an engine serves. A call pins one from its first lookup to its last score."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from time import monotonic

from pepnet_infer import forks
from pepnet_infer.assemble import Assembler
from pepnet_infer.backends import Backend
from pepnet_infer.backends.on_device import FeatureScorer, feature_scorer
from pepnet_infer.bundle import Bundle
from pepnet_infer.dense_inputs import DenseCall, dense_call
from pepnet_infer.features import Encoder
from pepnet_infer.request import RequestReader
from pepnet_infer.store import RowSource


@dataclass(frozen=True)
class Served:
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

    @classmethod
    def of(cls, bundle: Bundle, rows: RowSource, backend: Backend) -> Served:
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
            feature_scorer(bundle, rows, backend),
        )

    def with_rows(self, rows: RowSource) -> Served:
        """Returns the same with rows from elsewhere."""
        scorer = feature_scorer(self.bundle, rows, self.backend)
        return replace(self, rows=rows, assembler=Assembler(self.bundle.schema, rows), features=scorer)

    @property
    def model_version(self) -> int:
        """Of rows and weights alike."""
        return self.bundle.model_version


class Pinned:
    """One version, and how many calls are using it."""

    __slots__ = ("calls", "number", "served")

    def __init__(self, served: Served, number: int) -> None:
        self.served, self.number = served, number
        self.calls = 0


class Versions:
    """The version that new calls get, and older ones that calls are still using. Any thread may ask at any time.

    Versions are numbered in the order they were put in place, so that what an older one reads can be let go of when no
    call uses a lower number.
    """

    def __init__(self, served: Served) -> None:
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._now = Pinned(served, 0)
        self._before: list[Pinned] = []  # those that are in use
        forks.register(forks.Stage.VERSIONS, child=self.reset_after_fork)

    @property
    def now(self) -> Served:
        """What new calls get."""
        return self._now.served

    @property
    def number(self) -> int:
        """How many versions came before this one."""
        return self._now.number

    @contextlib.contextmanager
    def pinned(self) -> Iterator[Served]:
        """Holds on to the newest version for one call."""
        with self._lock:
            pin = self._now
            pin.calls += 1
        try:
            yield pin.served
        finally:
            with self._lock:
                pin.calls -= 1
                if pin.calls == 0 and pin is not self._now:
                    self._before = [other for other in self._before if other.calls]
                    self._left.notify_all()

    def put(self, served: Served, same: bool = False) -> int:
        """Gives `served` to all calls that begin from here on. Returns its number.

        same: it serves what the newest does, only from elsewhere, and has its number.
        """
        with self._lock:
            if self._now.calls:
                self._before.append(self._now)
            self._now = Pinned(served, self._now.number + (0 if same else 1))
            return self._now.number

    def oldest(self) -> int:
        """Returns the lowest number that a call is using, or else the newest."""
        with self._lock:
            return min((pin.number for pin in self._before if pin.calls), default=self._now.number)

    def wait_until(self, number: int, timeout_s: float) -> bool:
        """Waits until no call uses a version below `number`. Returns whether that is so."""
        ends = monotonic() + timeout_s
        with self._lock:
            while any(pin.calls and pin.number < number for pin in self._before):
                left = ends - monotonic()
                if left <= 0 or not self._left.wait(left):
                    return not any(pin.calls and pin.number < number for pin in self._before)
            return True

    def reset_after_fork(self) -> None:
        """In a child process: calls under way are the parent's."""
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._before = []
        self._now = Pinned(self._now.served, self._now.number)
