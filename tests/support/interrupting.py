"""Exceptions at chosen instructions of a call, and a guard that fails where somebody then waits for ever."""

from __future__ import annotations

import faulthandler
import random
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pytest

PATIENCE_S = 60.0
_Result = TypeVar("_Result")


class Interrupt(BaseException):
    """Not one of ours, and no error."""


class Tracer:
    """Raises before an instruction of a call, counted from its begin in code of `parts`; counts them all for None."""

    def __init__(self, at: int | None, parts: tuple[str, ...]) -> None:
        """parts: with which the paths of the code begin that is looked at."""
        self.at, self.seen, self._parts = at, 0, parts

    def __call__(self, frame: Any, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(self._parts):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            self.seen += 1
            if self.seen == self.at:
                raise Interrupt
        return self


class CallTracer(Tracer):
    """The same, where the interpreter itself looks for signals: as a function begins, and after one of C has ended.

    For code that is not ours: between two other instructions nothing holds what `with lock` has taken.
    """

    def __call__(self, frame: Any, event: str, argument: object) -> None:
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(self._parts):
            self.seen += 1
            if self.seen == self.at:
                raise Interrupt


def run(tracer: Tracer, call: Callable[[], object]) -> Interrupt | None:
    """Returns what interrupted the call, with all its frames, as a notebook keeps them."""
    look, had = (sys.setprofile, sys.getprofile()) if isinstance(tracer, CallTracer) else (sys.settrace, sys.gettrace())
    try:
        look(tracer)
        call()
    except Interrupt as error:
        return error
    finally:
        look(had)
    return None


def within(work: Callable[[], _Result], patience_s: float = PATIENCE_S) -> _Result:
    """Does `work` in a thread of its own. Where it does not end the test fails, and shows what all threads are at."""
    results: list[_Result] = []
    errors: list[BaseException] = []

    def begin() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=begin, daemon=True)  # one that waits for ever keeps nobody from going on
    thread.start()
    thread.join(patience_s)
    if thread.is_alive():
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            pytest.fail(f"still waits after {patience_s:.0f} s:\n{file.read()}")
    if errors:
        raise errors[0]
    return results[0]


def interrupt_each(
    call: Callable[[], object],
    others: Callable[[], object],
    parts: tuple[str, ...],
    step: int = 1,
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
    tracer: type[Tracer] = Tracer,
) -> int:
    """Interrupts a call at every `step`th instruction. Returns at how many.

    Each time `before` is done first, `after` by the thread that was interrupted, and then `others` by another, while
    the traceback is kept. All must end.
    """

    def once(tracer: Tracer) -> Interrupt | None:
        kept = run(tracer, call)
        after()
        return kept

    counter, interrupted = tracer(None, parts), 0
    within(before)
    within(lambda: once(counter))
    for at in range(1 + random.Random(5).randrange(step), counter.seen + 1, step):
        within(before)
        kept = within(partial(once, tracer(at, parts)))
        interrupted += kept is not None
        within(others)
        del kept
    return interrupted
