"""What a fuzzer is: mutants drawn from a random stream, and what becomes of one that is tried."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np

from pepnet_infer.errors import PepnetError

#: "refused" with an error that the API promises, "accepted" and used, "unreadable": a library before us refused it.
Outcome = Literal["refused", "accepted", "unreadable"]
OUTCOMES: tuple[Outcome, ...] = ("refused", "accepted", "unreadable")
Mutant = TypeVar("Mutant")


class WrongScore(AssertionError):
    """A score that is no number in [0, 1], without an error and without a flag."""


class Target(Generic[Mutant]):
    """One fuzzer. A mutant must follow from the random stream alone, and leave nothing behind for the next one."""

    #: what `run` may raise
    refusals: ClassVar[tuple[type[Exception], ...]] = (PepnetError,)

    def __init__(self, corpus: Path, scratch: Path) -> None:
        """`corpus` is what `write_corpus` left and is only read; `scratch` is an empty folder in memory."""
        self.corpus, self.scratch = corpus, scratch

    def make(self, random: Random) -> Mutant:
        """Returns a mutant, without trying it."""
        raise NotImplementedError

    def show(self, mutant: Mutant) -> str:
        """Returns a mutant as text that a person can read."""
        return repr(mutant)

    def run(self, mutant: Mutant) -> Outcome:
        """Tries a mutant. Anything raised that is none of `refusals` is a finding."""
        raise NotImplementedError


class _Scored(Protocol):
    values: Any
    invalid: Any


def check_scores(scores: _Scored, rows: int, tasks: int) -> None:
    """Raises WrongScore unless each score is a number in [0, 1], in all rows but those that are flagged."""
    values = scores.values
    if values.shape != (rows, tasks) or values.dtype != np.float32:
        raise WrongScore(f"expected float32 {[rows, tasks]}, got {values.dtype} {list(values.shape)}")
    bad = ~((values >= 0) & (values <= 1)).all(axis=1)
    flagged = np.zeros(rows, bool) if scores.invalid is None else scores.invalid
    if not np.array_equal(bad, flagged):
        row = np.flatnonzero(bad != flagged)[0]
        raise WrongScore(
            f"expected numbers in [0, 1] where no flag is, got {values[row]}, flag {flagged[row]} at row {row}"
        )


def shown(data: bytes, most: int = 3000) -> str:
    """Returns bytes as text, cut to a length."""
    text = repr(data)
    return text if len(text) <= most else f"{text[:most]}... ({len(data)} bytes)"
