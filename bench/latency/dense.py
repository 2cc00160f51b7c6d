"""The dense part, compared: every peer on the same bundle and rows with the same threads, speed beside accuracy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.bench.harness.interleave import Plan, reason
from pepnet_infer.bench.harness.measure import Figures, Row, Say, measure
from pepnet_infer.bench.harness.statistics import errors
from pepnet_infer.bench.harness.workloads import batches
from pepnet_infer.bench.latency.peers import Peer, PeerSpec
from pepnet_infer.errors import BackendError

if TYPE_CHECKING:
    from pepnet_infer.bundle.bundle import Bundle
    from pepnet_infer.schema.inputs import Inputs

Truth = npt.NDArray[np.float64]

#: Rows every peer's accuracy is taken on, in calls of the batch size measured, and the most such calls.
ACCURACY_ROWS = 1024
ACCURACY_CALLS = 128
#: Scores that are further from float64 than this, root mean square over the scores' own deviation, are of something
#: else: their peer did not do the work and has no figure. Errors below it stand beside the figure.
WRONG = 0.5


@dataclass
class _Loaded:
    peer: Peer
    row: Row  # what is known of it before it is timed


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
    loaded: dict[str, _Loaded] = {}
    missing: dict[str, str] = {}
    for spec in specs:
        say(f"batch {size}: loading {spec.name}")
        try:
            loaded[spec.name] = _load(bundle, spec, inputs, truth, size, threads)
        except Exception as error:  # whatever keeps a peer from running is its result
            missing[spec.name] = reason(error)
        _refuse(missing, required)
    if not loaded:
        return Figures({}, missing)

    def check(name: str, index: int, scores: npt.NDArray[np.float32]) -> None:
        _judge(scores, truth[index * size : (index + 1) * size], truth)

    calls = {name: entry.peer.scores for name, entry in loaded.items()}
    about = {name: entry.row for name, entry in loaded.items()}
    figures = measure(f"batch {size}", calls, batches(inputs, size), plan, say, about=about, check=check, must=False)
    for row in figures.rows.values():
        row["rows_per_s"] = size / row["p50_ms"] * 1e3
    figures.failed = missing | figures.failed
    _refuse(figures.failed, required)
    return figures


def _load(bundle: Bundle, spec: PeerSpec, inputs: Inputs, truth: Truth, size: int, threads: int) -> _Loaded:
    """Loads a peer and takes its accuracy; those calls are its warm-up too."""
    start = time.perf_counter()
    peer = spec.build(bundle, size, threads)
    parts = batches(inputs, size)
    calls = min(len(parts), ACCURACY_CALLS, -(-ACCURACY_ROWS // size))
    first = np.array(peer.scores(parts[0]))
    load_s = time.perf_counter() - start  # with the first call, in which some compile
    scores = np.concatenate([first, *(np.array(peer.scores(part)) for part in parts[1:calls])])
    accuracy = _judge(scores, truth[: calls * size], truth)
    row: dict[str, Any] = {"batch": size, "precision": spec.precision, "how": spec.how, "threads": threads}
    return _Loaded(peer, row | accuracy | {"rows_checked": calls * size, "load_s": load_s, "settings": peer.describe()})


def _judge(scores: npt.NDArray[np.float32], expected: Truth, truth: Truth) -> dict[str, float]:
    found, most = errors(scores, expected), WRONG * float(truth.std())
    if found["rms"] > most:
        raise ValueError(f"expected scores within {most:.3g} (rms) of float64, got a difference of {found['rms']:.3g}")
    return found


def _refuse(missing: dict[str, str], required: Sequence[str]) -> None:
    for name in required:
        if name in missing:
            raise BackendError(f"peers: {name} was asked for and cannot run: {missing[name]}")
