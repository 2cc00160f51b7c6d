"""The dense part, compared: every peer on the same bundle and rows with the same threads, speed beside accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.bench.latency import Plan, interleave, reason
from pepnet_infer.bench.machine import BusyMeter
from pepnet_infer.bench.summary import describe_times, errors, speedups
from pepnet_infer.bench.workloads import batches
from pepnet_infer.errors import BackendError

if TYPE_CHECKING:
    from pepnet_infer.bench.peers import Peer, PeerSpec
    from pepnet_infer.bundle.bundle import Bundle
    from pepnet_infer.schema.inputs import Inputs

#: Rows every peer's accuracy is taken on, in calls of the batch size measured, and the most such calls.
ACCURACY_ROWS = 1024
ACCURACY_CALLS = 128
#: A timed call whose scores are further from float64 than this did not do the work: its peer has no figure.
WRONG = 0.1

Say = Callable[[str], None]


@dataclass
class Comparison:
    """Rows of results, one per peer and batch size, and the peers that have none, with the reason."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    missing: list[dict[str, Any]] = field(default_factory=list)
    others_busy: dict[int, float] = field(default_factory=dict)  # batch → share of the CPUs that others used


def compare(
    bundle: Bundle,
    specs: Sequence[PeerSpec],
    inputs: Inputs,
    truth: npt.NDArray[np.float64],
    batch_sizes: Sequence[int],
    threads: int,
    plan: Plan,
    required: bool = False,
    say: Say = lambda _: None,
) -> Comparison:
    """Measures all peers at each batch size. `truth` holds the float64 scores of `inputs`, row by row.

    A peer that cannot be loaded, raises, or scores wrongly is listed in `missing` for that batch size; with
    `required` it is a BackendError instead.
    """
    result = Comparison()
    for size in batch_sizes:
        loaded: dict[str, Loaded] = {}
        for spec in specs:
            say(f"batch {size}: loading {spec.name}")
            try:
                loaded[spec.name] = _load(bundle, spec, inputs, truth, size, threads)
            except Exception as error:  # whatever keeps a peer from running is its result
                result.missing.append({"peer": spec.name, "batch": size, "reason": reason(error)})
            _refuse_missing(result, required)
        if loaded:
            _measure(result, loaded, inputs, truth, size, threads, plan, say)
            _refuse_missing(result, required)
    return result


def _refuse_missing(result: Comparison, required: bool) -> None:
    if required and result.missing:
        first = result.missing[0]
        raise BackendError(f"peers: {first['peer']} was asked for and cannot run: {first['reason']}")


@dataclass
class Loaded:
    """A peer that has proven itself: its settings, its errors on the common rows, and what loading took."""

    spec: PeerSpec
    peer: Peer
    accuracy: Mapping[str, float]
    rows_checked: int
    settings: Mapping[str, Any]
    load_s: float


def _load(
    bundle: Bundle, spec: PeerSpec, inputs: Inputs, truth: npt.NDArray[np.float64], size: int, threads: int
) -> Loaded:
    """Loads a peer and takes its accuracy; those calls are its warm-up too."""
    start = time.perf_counter()
    peer = spec.build(bundle, size, threads)
    parts = batches(inputs, size)
    calls = min(len(parts), ACCURACY_CALLS, -(-ACCURACY_ROWS // size))
    first = np.array(peer.scores(parts[0]))
    load_s = time.perf_counter() - start  # with the first call, in which some compile
    scores = np.concatenate([first, *(np.array(peer.scores(part)) for part in parts[1:calls])])
    accuracy = errors(scores, truth[: calls * size])
    if accuracy["max_abs"] > WRONG:
        raise ValueError(f"expected scores within {WRONG} of float64, got a difference of {accuracy['max_abs']:.3g}")
    return Loaded(spec, peer, accuracy, calls * size, peer.describe(), load_s)


def _measure(
    result: Comparison,
    loaded: Mapping[str, Loaded],
    inputs: Inputs,
    truth: npt.NDArray[np.float64],
    size: int,
    threads: int,
    plan: Plan,
    say: Say,
) -> None:
    def check(name: str, index: int, scores: npt.NDArray[np.float32]) -> None:
        worst = errors(scores, truth[index * size : (index + 1) * size])["max_abs"]
        if worst > WRONG:
            raise ValueError(f"timed call: expected scores within {WRONG} of float64, got a difference of {worst:.3g}")

    meter = BusyMeter()
    calls = {name: entry.peer.scores for name, entry in loaded.items()}
    measured = interleave(
        calls,
        batches(inputs, size),
        plan,
        check=check,
        on_round=lambda r: say(f"batch {size}: measuring {len(calls)} peers; round {r + 1}"),
    )
    result.others_busy[size] = meter.others()
    for name, why in measured.failed.items():
        result.missing.append({"peer": name, "batch": size, "reason": why})
    millis = {name: timings.millis for name, timings in measured.timings.items()}
    ratios = speedups(millis)
    for name, timings in measured.timings.items():
        entry = loaded[name]
        result.rows.append(
            {
                "peer": name,
                "batch": size,
                "precision": entry.spec.precision,
                "how": entry.spec.how,
                "threads": threads,
                **describe_times(timings.millis),
                "rows_per_s": size / float(np.median(timings.millis)) * 1e3,
                "speedups": ratios[name],
                "unsettled": timings.unsettled,
                **entry.accuracy,
                "rows_checked": entry.rows_checked,
                "load_s": entry.load_s,
                "settings": dict(entry.settings),
            }
        )
