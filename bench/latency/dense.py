"""The dense part, compared: every peer on the same bundle and rows with the same threads, speed beside accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.harness.measure import Figures, Row, Say, measure, reason
from pepnet_infer.bench.harness.workloads import batches
from pepnet_infer.bench.latency.peers import PeerSpec, Scores
from pepnet_infer.bundle.accuracy import Difference
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.errors import BackendError
from pepnet_infer.schema.inputs import Inputs

Truth = npt.NDArray[np.float64]

#: Rows every peer's accuracy is taken on, in calls of the batch size measured, and the most such calls.
ACCURACY_ROWS, ACCURACY_CALLS = 1024, 128
#: Scores that are further from float64 than this, root mean square over the scores' own deviation, are of something
#: else: their peer did not do the work and has no figure. Errors below it stand beside the figure.
WRONG = 0.5


def compare(
    bundle: Bundle,
    specs: Sequence[PeerSpec],
    inputs: Inputs,
    truth: Truth,
    size: int,
    threads: int,
    plan: Plan,
    required: Sequence[str] = (),
    say: Say = lambda _: None,
) -> Figures:
    """Measures all peers at a batch size. `truth` holds the float64 scores of `inputs`, row by row.

    A peer that cannot be loaded, raises, or scores something else is in `failed`; a `required` one is a BackendError.
    """
    parts = batches(inputs, size)
    expected = [truth[start : start + size] for start in range(0, len(parts) * size, size)]
    most = WRONG * float(truth.std())

    def judge(scores: Scores, wanted: Truth) -> dict[str, float]:
        if scores.shape != wanted.shape:
            raise ValueError(f"expected scores {list(wanted.shape)}, got {list(scores.shape)}")
        found = Difference.of(scores, wanted)
        if not found.rms <= most:  # which NaN is not
            raise ValueError(f"expected scores within {most:.3g} (rms) of float64, got a difference of {found.rms:.3g}")
        return {"max_abs": found.max_abs, "rms": found.rms}

    def load(spec: PeerSpec) -> tuple[Callable[[Inputs], Scores], Row]:
        """Loads a peer and takes its accuracy; those calls are its warm-up too."""
        peer = spec.build(bundle, size, threads)
        calls = min(len(parts), ACCURACY_CALLS, -(-ACCURACY_ROWS // size))
        scores = np.concatenate([np.array(peer.scores(part)) for part in parts[:calls]])
        known = {"batch": size, "precision": spec.precision, "threads": threads, "settings": dict(peer.settings)}
        accuracy = judge(scores, np.concatenate(expected[:calls]))
        return peer.scores, {**known, **accuracy, "rows_checked": len(scores)}

    calls: dict[str, Callable[[Inputs], Scores]] = {}
    about: dict[str, Row] = {}
    missing: dict[str, str] = {}
    for spec in specs:
        say(f"batch {size}: loading {spec.name}")
        try:
            calls[spec.name], about[spec.name] = load(spec)
        except Exception as error:  # whatever keeps a peer from running is its result
            missing[spec.name] = reason(error)
        _refuse(missing, required)
    if not calls:
        return Figures({}, missing)

    def check(name: str, index: int, scores: Scores) -> None:
        judge(scores, expected[index])

    figures = measure(f"batch {size}", calls, parts, plan, say, about=about, check=check, must=False)
    figures.failed = missing | figures.failed
    _refuse(figures.failed, required)
    return figures


def _refuse(missing: dict[str, str], required: Sequence[str]) -> None:
    for name in required:
        if name in missing:
            raise BackendError(f"peers: {name} was asked for and cannot run: {missing[name]}")
