"""The end of the interpreter, and threads that are inside native libraries then.

Up to Python 3.13 a daemon thread that comes back from native code while the interpreter is being finalized is ended by
`pthread_exit`. Where C++ is on its stack that aborts the process. Our own extension has such threads wait
(`kernels/python/released_gil.h`). For a library whose bindings do not, calls are made `INSIDE` a block: before
finalization begins, those under way are waited for, and threads that begin a new one end instead, as the interpreter
ends them a moment later: one that somebody joins, in a function of `atexit` that runs after ours, must not stay.
"""

from __future__ import annotations

import atexit
import sys
from threading import get_ident

from pepnet_infer.process import forks
from pepnet_infer.process.pace import wait_for

#: No longer than this is waited for: a library that hangs must not keep a process from ending.
PATIENCE_S = 10.0


class Inside:
    """`with INSIDE:` around a call into such a library. Costs 0.2 µs. Not to be nested.

    Raises SystemExit in threads that come while another one ends the interpreter.

    There is no lock: a thread first says that it is inside and then looks whether the end has begun; who ends does it
    the other way round.
    """

    def __init__(self) -> None:
        self._threads: dict[int, bool] = {}
        forks.register(forks.Stage.LEAVES, child=self._threads.clear)  # the other threads are not there
        self._ends: int | None = None  # the thread that ends the interpreter

    def __enter__(self) -> None:
        me = get_ident()
        self._threads[me] = True
        if self._ends is not None and self._ends != me:
            del self._threads[me]
            raise SystemExit  # of this thread alone, and silent

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._threads.pop(get_ident(), None)

    def end(self) -> bool:
        """Lets no other thread in from here on. Returns whether those inside came out in time."""
        self._ends = me = get_ident()

        def out() -> bool:
            return not any(thread != me and thread in sys._current_frames() for thread in self._threads.copy())

        return wait_for(out, PATIENCE_S)


INSIDE = Inside()
atexit.register(INSIDE.end)
