"""Validation of options and documents by types with constraints, which msgspec reads.

A document from outside is checked with `convert`. Options are a subclass of `Options`, whose fields say what they may
be: `beta: Annotated[float, Meta(gt=0, le=1)] = 0.1`. Either way the message names the key, what was expected and what
came.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

import msgspec
import numpy as np
from msgspec import Meta, Struct, structs
from msgspec import inspect as types

from pepnet_infer.errors import ConfigError, Fields, PepnetError
from pepnet_infer.quoting import clip, quote

_LARGEST = sys.float_info.max

#: Numbers as options and documents have them: finite.
Finite = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]
Positive = Annotated[float, Meta(gt=0, le=_LARGEST)]
NotNegative = Annotated[float, Meta(ge=0, le=_LARGEST)]
Share = Annotated[float, Meta(ge=0, le=1)]
#: Whole numbers that C++ takes as an int64.
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Several = Annotated[int, Meta(ge=1, le=2**63 - 1)]
#: A seed of random draws; seeds of several are a few millions apart, and each has to be an int64.
Seed = Annotated[int, Meta(ge=0, le=2**62 - 1)]
#: A version of a model.
Version = Annotated[int, Meta(ge=0, le=2**63 - 1)]

_UNEXPECTED = (
    ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, MemoryError,
    msgspec.MsgspecError,  # no ValueError in every release
)  # fmt: skip
_REFUSALS = (msgspec.ValidationError, UnicodeEncodeError)  # the second: of half a character, which JSON may have


def convert(where: str, value: object, kind: Any, error: Callable[..., PepnetError], key: str = "") -> Any:
    """Returns `value` as a `kind`: a type with constraints, a Struct or a container of them.

    Nothing is coerced but whole numbers to float. Raises `error` naming `where`, and what is wrong by its key: `key` is
    that of `value` itself.
    """
    try:
        return msgspec.convert(value, kind, strict=True)
    except _REFUSALS as refused:
        place, what = _refused(key, value, kind, refused)
        within = ": ".join(part for part in (where, place) if part) or None
        if isinstance(what, PepnetError):
            raise type(what).of(what, within=within) from refused
        raise (error(what, within=within) if isinstance(what, str) else error(within=within, **what)) from refused


@contextlib.contextmanager
def untrusted(where: object, error: type[PepnetError]) -> Iterator[None]:
    """Raises `error` naming `where` for whatever the code inside does not expect of content from outside.

    What is known to go wrong is checked and named by its key. This is the net below: content that passes those checks
    and still does not fit may not end a process with an error that its caller does not expect.
    """
    try:
        yield
    except PepnetError:
        raise
    except _UNEXPECTED as refused:
        what = f"{type(refused).__name__}: {refused!s:.200}"
        raise error(f"{where}: expected what this package writes, got content that leads to {what}") from refused


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every set of options: validated when it is created, and immutable.

    Raises `refusal`, ConfigError as a rule, which is a ValueError, naming the option, what was expected and what came.
    """

    refusal: ClassVar[type[PepnetError]] = ConfigError

    def __post_init__(self) -> None:
        kinds = kinds_of(type(self))
        for name in self.__struct_fields__:
            value = getattr(self, name)
            checked = check_option(name, value, kinds[name], self.refusal)
            if checked is not value:
                structs.force_setattr(self, name, checked)


def check_option(name: str, value: object, kind: Any, refusal: type[PepnetError] = ConfigError) -> Any:
    """Returns one option that is an argument of its own, checked as those of an `Options`. Raises `refusal`."""
    plain = value.item() if isinstance(value, np.number | np.bool_) else value
    return convert("", plain, kind, refusal, name)


@cache
def kinds_of(struct: type[Struct]) -> dict[str, Any]:
    """Returns the fields of a struct by name, each with its type and constraints, for `check_option`."""
    return {field.name: field.type for field in structs.fields(struct)}


def _refused(key: str, value: object, kind: Any, refused: Exception) -> tuple[str, PepnetError | str | Fields]:
    """Returns the key of the innermost value that is refused, and what is wrong with it.

    msgspec tells both in a sentence only. The parts are tried one by one instead.
    """
    for alternative in _alternatives(kind):
        for name, part, inside in _parts(value, alternative):
            try:
                msgspec.convert(part, inside, strict=True)
            except _REFUSALS as error:
                named = part.get("name") if isinstance(name, int) and isinstance(part, Mapping) else None
                place = _joined(key, name) + (f" ({clip(named, 80)})" if isinstance(named, str) else "")
                return _refused(place, part, inside, error)
    if isinstance(refused.__cause__, PepnetError):  # of a `__post_init__`
        return key, refused.__cause__
    if isinstance(refused, UnicodeEncodeError):
        return key, {"expected": "text in UTF-8", "got": quote(refused.object)}
    struct = next((one for one in _alternatives(kind) if _is_struct(one)), None)
    if struct is not None and isinstance(value, Mapping):
        known = {field.encode_name: field.required for field in structs.fields(struct)}
        unknown = [name for name in value if name not in known]
        if unknown and struct.__struct_config__.forbid_unknown_fields:
            return key, f"unknown key {quote(unknown[0])}; known: {', '.join(known) or 'none'}"
        if missing := [name for name, required in known.items() if required and name not in value]:
            return key, f"missing key {missing[0]!r}"
    got = quote(value)
    if isinstance(value, list | tuple) and any(get_origin(one) in (list, tuple) for one in _alternatives(kind)):
        got = f"a list of {len(value)}"  # too short or too long, for none of its values is refused
    return key, {"expected": describe(kind), "got": got}


def _alternatives(kind: Any) -> list[Any]:
    """Returns the types that a value of type `kind` may have, without their constraints."""
    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [one for part in get_args(kind) for one in _alternatives(part)]
    return [kind]


def _parts(value: object, kind: Any) -> Iterator[tuple[str | int, object, Any]]:
    """Yields name or place, value and type of what is inside a value, as far as `kind` says what it should be."""
    origin, args = get_origin(kind), get_args(kind)
    if isinstance(value, Mapping) and _is_struct(kind):
        named = ((field.encode_name, field.type) for field in structs.fields(kind))
        yield from ((name, value[name], inside) for name, inside in named if name in value)
    elif isinstance(value, Mapping) and origin in (dict, Mapping):
        yield from ((name, part, args[1]) for name, part in value.items() if isinstance(name, str))
    elif isinstance(value, list | tuple) and origin in (list, tuple):
        each = args[:1] * len(value) if origin is list or args[-1] is ... else args
        yield from ((at, part, inside) for at, (part, inside) in enumerate(zip(value, each, strict=False)))


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _joined(key: str, name: str | int) -> str:
    if isinstance(name, int):
        return f"{key}[{name}]"
    return f"{key}[{quote(name)}]" if not name.isidentifier() else f"{key}.{name}" if key else name


def describe(kind: Any) -> str:
    """Returns what a type with constraints takes, in words."""
    return _describe(types.type_info(kind))


def _describe(info: types.Type) -> str:
    match info:
        case types.Metadata():
            return _describe(info.type)
        case types.UnionType():
            kinds = sorted(info.types, key=lambda t: isinstance(t, types.NoneType))
            return " or ".join(_describe(t) for t in kinds if t != types.LiteralType(("",)))  # which is: left out
        case types.NoneType():
            return "None"
        case types.BoolType():
            return "true or false"
        case types.LiteralType():
            return "one of " + ", ".join(map(str, info.values)) if len(info.values) > 1 else repr(info.values[0])
        case types.IntType() | types.FloatType():
            return ("an integer" if isinstance(info, types.IntType) else "a number") + _range(info)
        case types.StrType():
            return "text"
        case types.AnyType():
            return "any value"
        case types.ListType() | types.VarTupleType():
            return f"a list{_lengths(info)}, each {_describe(info.item_type)}"
        case types.TupleType():
            return f"a list of {len(info.item_types)}"
        case types.DictType():
            return "a mapping" + ("" if info.value_type == types.AnyType() else f" to {_describe(info.value_type)}")
        case types.StructType() if not issubclass(info.cls, Options):
            return "a mapping with " + ", ".join(field.encode_name for field in info.fields if field.required)
        case types.StructType() | types.CustomType():
            name = info.cls.__name__
            return f"a{'n' if name[0] in 'AEIOU' else ''} {name}"
    return type(info).__name__.removesuffix("Type").lower()


def _lengths(info: types.ListType | types.VarTupleType) -> str:
    if info.max_length is not None:
        return f" of {info.min_length} to {info.max_length}" if info.min_length else f" of at most {info.max_length}"
    return f" of at least {info.min_length}" if info.min_length else ""


def _range(info: types.IntType | types.FloatType) -> str:
    words = ""
    if info.gt is not None:
        words = f" above {info.gt:g}"
    elif info.ge is not None and info.ge > -_LARGEST:
        words = f" from {info.ge:g}"
    if info.lt is not None:
        words += f" to below {info.lt:g}"
    elif info.le is not None and info.le < 2**62:
        words += f" to {info.le}" if isinstance(info.le, int) else f" to {info.le:g}"
    return words
