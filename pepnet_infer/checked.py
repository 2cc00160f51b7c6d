"""The one way to check options and documents: types with constraints, read by msgspec.

A document from outside is checked with `convert`. Options are a subclass of `Options`, whose fields say what they may
be: `beta: Annotated[float, Meta(gt=0, le=1)] = 0.1`. Either way the message names the key, what was expected and what
came.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
import numpy as np
from msgspec import Meta
from msgspec import inspect as types

from pepnet_infer.errors import ConfigError, PepnetError
from pepnet_infer.quoting import quote

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

_UNEXPECTED = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, MemoryError)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]|\[\.\.\.\]")


def convert(where: str, value: object, kind: Any, error: Callable[[str], PepnetError]) -> Any:
    """Returns `value` as a `kind`: a type with constraints, a Struct or a container of them.

    Nothing is coerced but whole numbers to float. Raises `error` naming `where` and the key inside `value`, with what
    was expected and what came.
    """
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as refused:
        if " - at `$[...]" in str(refused) and isinstance(value, Mapping):
            for key, inside in value.items():  # msgspec does not say which
                convert(f"{where}[{quote(key)}]", inside, get_args(kind)[1], error)
        raise error(_message(where, value, kind, str(refused))) from refused
    except UnicodeEncodeError as refused:  # half a character, which JSON may have
        raise error(f"{where}: expected text in UTF-8, got {quote(refused.object)}") from refused


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


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every set of options: checked when it is made, whoever makes it, and never changed afterwards.

    Raises ConfigError, which is a ValueError, naming the option, what was expected and what came.
    """

    def __post_init__(self) -> None:
        kinds = kinds_of(type(self))
        for name in self.__struct_fields__:
            value = getattr(self, name)
            plain = value.item() if isinstance(value, np.number | np.bool_) else value
            checked = convert(name, plain, kinds[name], ConfigError)
            if checked is not value:
                msgspec.structs.force_setattr(self, name, checked)


def check_option(name: str, value: object, kind: Any) -> Any:
    """Returns one option that is an argument of its own, checked as those of an `Options`. Raises ConfigError."""
    plain = value.item() if isinstance(value, np.number | np.bool_) else value
    return convert(name, plain, kind, ConfigError)


_KINDS: dict[type[Options], dict[str, Any]] = {}


def kinds_of(options: type[Options]) -> dict[str, Any]:
    """Returns the options of a set by name, each with its type and constraints, for `check_option`."""
    if options not in _KINDS:
        _KINDS[options] = get_type_hints(options, include_extras=True)
    return _KINDS[options]


def _message(where: str, value: object, kind: Any, refused: str) -> str:
    text, _, path = refused.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    where = f"{where}: {path}" if path else where
    if text.startswith("Object "):  # contains unknown field `x` / missing required field `x`
        name = text.split("`")[1]
        return f"{where}: {'unknown' if 'unknown' in text else 'missing'} key {name!r}"
    got = value
    for key, index in _STEP.findall(f".{path}" if path else ""):
        if key and isinstance(got, dict) and key in got:
            got = got[key]
        elif index and isinstance(got, list | tuple):
            got = got[int(index)]
        else:
            return f"{where}: {_plain(text)}"  # a mapping's value: msgspec does not say which
    if not path:
        expected = describe(kind)
    elif text.startswith("Invalid enum value"):  # which says what came, and not what was expected
        expected = _describe(_inside(types.type_info(kind), path))
    else:
        expected = _plain(text).removeprefix("expected ").partition(", got ")[0]
    return f"{where}: expected {expected}, got {quote(got)}"


def _inside(info: types.Type, path: str) -> types.Type:
    """Returns what stands at a path inside a type."""
    for key, _ in _STEP.findall(f".{path}"):
        if isinstance(info, types.Metadata):
            info = info.type
        if isinstance(info, types.UnionType):
            info = next(kind for kind in info.types if not isinstance(kind, types.NoneType))
        match info:
            case types.StructType():
                info = next((field.type for field in info.fields if field.encode_name == key), info)
            case types.ListType() | types.VarTupleType():
                info = info.item_type
            case types.DictType():
                info = info.value_type
    return info


def _plain(text: str) -> str:
    text = (text[:1].lower() + text[1:]).replace("`", "").replace(" | ", " or ")
    return text.replace("object", "a mapping").replace("array", "a list").replace("float", "number")


def describe(kind: Any) -> str:
    """Returns what a type with constraints takes, in words."""
    return _describe(types.type_info(kind))


def _describe(info: types.Type) -> str:
    match info:
        case types.Metadata():
            return _describe(info.type)
        case types.UnionType():
            return " or ".join(map(_describe, sorted(info.types, key=lambda t: isinstance(t, types.NoneType))))
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
        case types.ListType() | types.VarTupleType():
            return f"a list, each {_describe(info.item_type)}"
        case types.DictType():
            return f"a mapping to {_describe(info.value_type)}"
        case types.StructType() if not issubclass(info.cls, Options):
            return "a mapping with " + ", ".join(field.encode_name for field in info.fields if field.required)
        case types.StructType() | types.DataclassType() | types.CustomType():
            name = info.cls.__name__
            return f"a{'n' if name[0] in 'AEIOU' else ''} {name}"
    return type(info).__name__.removesuffix("Type").lower()


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
