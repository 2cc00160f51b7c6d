"""Whole requests: ids in, scores out."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

import pytest

from pepnet_infer.bench.workloads import Traffic, as_request
from pepnet_infer.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

    from pepnet_infer.bundle.bundle import Bundle
    from pepnet_infer.scores import Scores


@pytest.mark.parametrize("call", ["score", "rank"])
def test_request(benchmark: BenchmarkFixture, call: str, batch_size: int, bundle: Bundle, threads: int) -> None:
    with Engine.load(bundle.path, threads=threads) as engine:
        traffic = Traffic(bundle)
        columns = [traffic.columns(batch_size) for _ in range(16)]
        requests = [as_request(bundle, batch) for batch in columns]
        turns = cycle(range(16))

        def score(turn: int) -> Scores:
            return engine.score(columns[turn])

        def rank(turn: int) -> Scores:
            request = requests[turn]
            return engine.rank(request.user, request.items, request.domain, request.context)

        benchmark.group = f"end to end, batch {batch_size}"
        chosen = {"score": score, "rank": rank}[call]
        pedantic: Callable[..., Scores] = benchmark.pedantic  # untyped
        scores = pedantic(chosen, setup=lambda: ((next(turns),), {}), rounds=30, warmup_rounds=2)
    assert scores.values.shape == (batch_size, len(bundle.tasks))
    assert scores.unknown == {}
