"""Properties that are computed at their first use, without a lock."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    computed_once = functools.cached_property
else:

    class computed_once:  # used as a decorator, as `property` is
        """`functools.cached_property` without its lock, which is one for all instances up to Python 3.11.

        A fork while another thread computes such a property leaves that lock held in the child for ever: no instance
        there could be asked for it. Without a lock two threads may compute the same value at one moment; one of the two
        is kept.
        """

        def __init__(self, compute: Callable[[Any], Any]) -> None:
            self._compute, self.__doc__ = compute, compute.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        def __get__(self, instance: object | None, owner: type | None = None) -> Any:
            # Found there from now on: a descriptor without `__set__` comes after the instance's own attributes.
            return self if instance is None else instance.__dict__.setdefault(self._name, self._compute(instance))
