"""Fork handlers: one registry for the whole package.

`fork` copies the memory of a process and only the thread that called it. Locks that other threads held stay held in the
child, and work that they were doing never ends there. Each object that has a lock, a thread, a connection or a handle
of a library registers what puts it right. The order is given by stages, not by who was imported first. What C++ has of
its own (`kernels/cache/after_fork.h`, `kernels/threads/thread_pool.cc`) is put right by `pthread_atfork`
before any Python runs in the child, so that it also holds for a fork that Python does not know of.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import os
import threading
import weakref
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Literal

Hook = Callable[[], None]


class Stage(enum.IntEnum):
    """The order in the child and in the parent after a fork, lowest first; before a fork it is the other way round.

    A part comes after those that it uses.
    """

    LEAVES = 10  # locks, files that are written: what uses no other part
    STORES = 20
    BACKENDS = 30
    CACHES = 40
    VERSIONS = 50
    FOLLOWERS = 60
    ENGINES = 70


class Registry:
    """Hooks by stage. Any thread may register, also while another forks."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        #: By number: the order, and what finds the hooks. Only ever changed by one operation of the dict: no lock.
        self._entries: dict[int, tuple[tuple[int, int], dict[str, Callable[[], Hook | None]]]] = {}

    def register(
        self, stage: Stage, *, before: Hook | None = None, parent: Hook | None = None, child: Hook | None = None
    ) -> None:
        """Calls hooks around every fork from here on: `before` it, and after it in the `parent` and in the `child`.

        Bound methods are held weakly: they go with their object, and all of a call must be of one object. Functions are
        kept. A hook must not wait for another thread, in the child there is none.
        """
        number = next(self._numbers)
        hooks = {"before": before, "parent": parent, "child": child}
        owner = next((hook.__self__ for hook in hooks.values() if isinstance(hook, MethodType)), None)
        found = {name: _weak(hook) for name, hook in hooks.items() if hook is not None}
        self._entries[number] = (stage, number), found
        if owner is not None:
            weakref.finalize(owner, self._entries.pop, number, None).atexit = False

    def count(self) -> int:
        """Returns how many objects and functions have hooks."""
        return len(self._entries)

    def call(self, name: Literal["before", "parent", "child"]) -> None:
        """Calls all hooks of that name, those of `before` in reverse."""
        first: Exception | None = None
        for _, hooks in sorted(self._entries.copy().values(), key=lambda entry: entry[0], reverse=name == "before"):
            hook = hooks[name]() if name in hooks else None
            try:
                if hook is not None:
                    hook()
            except Exception as error:  # the others must be put right all the same
                first = first or error
        if first is not None:
            raise first  # Python prints it: no fork can be refused


def _weak(hook: Hook) -> Callable[[], Hook | None]:
    return weakref.WeakMethod(hook) if isinstance(hook, MethodType) else lambda: hook


def leak(thing: object) -> None:
    """Keeps an object for as long as the process lives, the end of the interpreter included.

    For what belongs to the parent process: its destructor would wait for threads that are not in the child, or end what
    the parent still uses.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


_REGISTRY = Registry()
register = _REGISTRY.register


class OwnLock:
    """Base of what has a lock, `lock`: in a child process it has a new one, for who held the other is not there."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        register(Stage.LEAVES, child=self._new_lock)

    def _new_lock(self) -> None:
        self.lock = threading.Lock()


os.register_at_fork(
    before=partial(_REGISTRY.call, "before"),
    after_in_parent=partial(_REGISTRY.call, "parent"),
    after_in_child=partial(_REGISTRY.call, "child"),
)
