"""Properties that are computed at their first use, without a lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

_Value = TypeVar("_Value")


class computed_once(Generic[_Value]):  # used as a decorator, as `property` is
    """`functools.cached_property` without its lock, which is one for all instances up to Python 3.11.

    A fork while another thread computes such a property leaves that lock held in the child for ever: no instance there
    could be asked for it. Without a lock two threads may compute the same value at one moment; one of the two is kept.
    """

    def __init__(self, compute: Callable[[Any], _Value]) -> None:
        self._compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> computed_once[_Value]: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None) -> _Value: ...

    def __get__(self, instance: object | None, owner: type | None = None) -> computed_once[_Value] | _Value:
        if instance is None:
            return self
        # Found there from now on: a descriptor without `__set__` comes after the instance's own attributes.
        value: _Value = instance.__dict__.setdefault(self._name, self._compute(instance))
        return value
