"""Calls of the extension with arguments of every kind: an error, never undefined behaviour."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from fuzz.native_arguments import Call, Draw, check_guards, resolved, said
from fuzz.native_calls import SCENARIOS
from fuzz.target import Outcome, Target
from pepnet_infer import _kernels


class NativeTarget(Target[list[Call]]):
    """Makes an object and calls its methods, or calls a function."""

    #: OverflowError: of an integer of more than 64 bits; OSError: of a file
    refusals: ClassVar[tuple[type[Exception], ...]] = (TypeError, ValueError, MemoryError, OverflowError, OSError)

    def __init__(self, corpus: Path, scratch: Path) -> None:
        super().__init__(corpus, scratch)
        self._usable = [(entry["isa"], entry["precision"]) for entry in _kernels.isas() if entry["usable"]]

    def make(self, random: Random) -> list[Call]:
        """Returns the calls of one scenario."""
        return random.choice(SCENARIOS)(Draw(random, self._usable))

    def show(self, mutant: list[Call]) -> str:
        """Returns the calls; arrays by dtype, shape and strides where they are large."""
        return "\n".join(
            f"{call.name}({', '.join([*map(said, call.args), *(f'{k}={said(v)}' for k, v in call.named.items())])})"
            for call in mutant
        )

    def run(self, mutant: list[Call]) -> Outcome:
        """Makes the calls, whatever comes of those before, and looks whether the guards still stand."""
        results: list[Any] = []
        outcome: Outcome = "accepted"
        for number, call in enumerate(mutant):
            owner: Any = _kernels if number == 0 or not call.name.startswith(".") else results[0]
            try:
                found = attrgetter(call.name.removeprefix("."))(owner)
                args = [resolved(arg, results) for arg in call.args]
                named = {name: resolved(arg, results) for name, arg in call.named.items()}
                results.append(found(*args, **named) if callable(found) else found)
            except self.refusals:
                outcome = "refused"
                results.append(None)
                if number == 0:
                    break
        for call in mutant:
            for arg in (*call.args, *call.named.values()):
                check_guards(arg)
        return outcome
