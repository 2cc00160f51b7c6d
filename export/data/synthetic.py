"""Generated traffic with effects planted where PEPNet claims to find them.

Users and items are drawn from Zipf laws, pages and days at random. A row's truth runs through the model's own steps:

    e = latent factors of the user, the item, its author and its topic                       [4·K]
    o = scale(page) ⊙ e                              what EPNet can express: the domain scales features
    h = relu(o·W) ⊙ switch(user)                     what PPNet can express: the user gates hidden units
    label_t ~ Bernoulli(sigmoid(strength·standardised(h·V_t) + bias_t))

With `domain_effect` and `user_effect` at 0 the scale and the switch are 1: nothing is planted, and a plain MMoE has
all there is to find.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pepnet_infer.computed_once import computed_once
from pepnet_infer.export.run_config import RunConfig
from pepnet_infer.schema.feature_schema import JoinSpec

Floats = npt.NDArray[np.float64]

PAGES = ("feed", "discover", "nearby")
#: Task → share of positives.
RATES = {"click": 0.45, "long_view": 0.3, "like": 0.1, "follow": 0.05, "forward": 0.05, "hate": 0.03}
_PAGE_SHARES = (0.5, 0.3, 0.2)
_DAY_MS = 86_400_000
_START_MS = 1_704_067_200_000  # 2024-01-01 00:00 UTC


@dataclass(frozen=True)
class SyntheticConfig:
    """How much traffic, of whom, and what is planted. Effects run from 0 (none) to 1 (gates between 0 and 2)."""

    rows: int = 60_000
    users: int = 200
    items: int = 400
    authors: int = 80
    topics: int = 20
    days: int = 6
    factors: int = 3  # K
    hidden: int = 16
    zipf: float = 0.8  # share of rank n is proportional to n^-zipf
    domain_effect: float = 1.0
    user_effect: float = 1.0
    strength: float = 3.5  # standard deviation of the true logits
    seed: int = 0


class Synthetic:
    """The `Source` of generated traffic. The same config gives the same rows."""

    name = "synthetic"
    outcomes = frozenset(RATES)
    day_column = "day"
    time_column = "time_ms"
    user_column = "user_id"

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config

    def interactions(self) -> pa.Table:
        """Returns the log: time_ms, day, user_id, item_id, page, position, and 0 or 1 per task, in time order."""
        return self._generated[0]

    def side(self, join: JoinSpec, first_day: int) -> pa.Table | None:
        """Returns the item table (item_id, author_id, topic, age_hours) for the file `items`."""
        return self._generated[1] if join.file == "items" else None

    @computed_once
    def _generated(self) -> tuple[pa.Table, pa.Table]:
        c = self.config
        rng = np.random.default_rng(c.seed)
        author, topic = rng.integers(0, c.authors, c.items), rng.integers(0, c.topics, c.items)
        user = rng.choice(c.users, c.rows, p=_zipf(c.users, c.zipf))
        item = rng.choice(c.items, c.rows, p=_zipf(c.items, c.zipf))
        page = rng.choice(len(PAGES), c.rows, p=_PAGE_SHARES)
        time = np.sort(rng.integers(0, c.days * _DAY_MS, c.rows))

        factors = [rng.normal(size=(n, c.factors)) for n in (c.users, c.items, c.authors, c.topics)]
        rows = (user, item, author[item], topic[item])
        e = np.concatenate([f[r] for f, r in zip(factors, rows, strict=True)], axis=1)
        o = e * _gates(rng, len(PAGES), e.shape[1], c.domain_effect)[page]
        h = np.maximum(o @ rng.normal(size=(e.shape[1], c.hidden)) / np.sqrt(e.shape[1]), 0.0)
        h *= _gates(rng, c.users, c.hidden, c.user_effect)[user]
        logits = h @ rng.normal(size=(c.hidden, len(RATES)))
        logits = c.strength * (logits - logits.mean(0)) / logits.std(0)
        labels = {
            name: (rng.random(c.rows) < _sigmoid(x + _bias(x, rate))).astype(np.int8)
            for (name, rate), x in zip(RATES.items(), logits.T, strict=True)
        }
        log: dict[str, Any] = {
            "time_ms": _START_MS + time,
            "day": time // _DAY_MS,
            "user_id": user,
            "item_id": item,
            "page": np.array(PAGES)[page],
            "position": rng.integers(0, 20, c.rows),
        }
        items: dict[str, Any] = {
            "item_id": np.arange(c.items),
            "author_id": author,
            "topic": np.array([f"topic {t}" for t in topic]),
            "age_hours": rng.exponential(48.0, c.items),
        }
        return pa.table(log | labels), pa.table(items)


def synthetic_run() -> RunConfig:
    """Returns the built-in config, `synthetic.yaml` beside this file."""
    return RunConfig.read(Path(__file__).with_name("synthetic.yaml"))


def _zipf(size: int, exponent: float) -> Floats:
    shares = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    return np.asarray(shares / shares.sum())


def _gates(rng: np.random.Generator, count: int, width: int, effect: float) -> Floats:
    """Returns [count, width] of 1 ± effect, as a gate with γ = 2 can make them: half the columns on, half off."""
    return 1.0 + effect * rng.choice([-1.0, 1.0], size=(count, width))


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def _bias(logits: Floats, rate: float) -> float:
    """Returns the bias that makes the mean of sigmoid(logits + bias) equal `rate`, by bisection."""
    low, high = -30.0, 30.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(logits + middle).mean() < rate else (low, middle)
    return (low + high) / 2
