"""Text from outside in messages: cut, on one line, without what does not print."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest

from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.decode import type_error
from pepnet_infer.errors import BundleError, PepnetError, SchemaError
from pepnet_infer.quoting import MOST_MESSAGE, MOST_VALUE, clip, name_list, printable, quote


@pytest.mark.parametrize("value", [7, -1.5, "text", b"bytes", None, True, ["a", 1], {"a": 1}, "it's", 'say "it"', ""])
def test_short_values_are_their_repr(value: object) -> None:
    assert quote(value) == repr(value)


@pytest.mark.parametrize(
    ("value", "end"),
    [
        ("a" * 10**6, "a… (1000000 characters)"),
        (b"a" * 101, "a… (101 bytes)"),
        ("\x1b" * 100, "… (100 characters)"),
        (list(range(10**4)), "...]"),
        ({str(i): i for i in range(10**4)}, "...}"),
        (10**5000, "an integer of 16610 bits"),
        (type("Long", (), {"__repr__": lambda _: "x" * 10**5})(), "x…"),
    ],
    ids=["text", "bytes", "escapes", "list", "dict", "integer", "repr"],
)
def test_long_values_are_cut(value: object, end: str) -> None:
    text = quote(value)
    assert text.endswith(end)
    assert len(text) <= MOST_VALUE + 25
    assert text.isprintable()


def test_what_does_not_print_is_escaped() -> None:
    assert printable("red \x1b[31m, left \u202e, half \ud800, é×→") == r"red \x1b[31m, left \u202e, half \ud800, é×→"
    assert printable("one\r\n  two\u2028three\ttab") == r"one two three\ttab"
    assert clip("a\nb" * 1000, 10) == "a ba ba ba…"
    assert clip(" " * 5 + "\n" * 5 + "x") == " x"


def test_lists_of_names_are_cut() -> None:
    assert name_list(["a", "b"]) == "'a', 'b'"
    assert name_list(range(25)).endswith("18, 19 and 5 more")


def test_errors_are_one_line_of_stated_length_and_survive_pickling() -> None:
    error = BundleError("first\nsecond \x07" + "x" * 10**6)
    assert str(error).startswith(r"first second \x07x")
    assert len(str(error)) == MOST_MESSAGE + 1
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(PepnetError(str(error))) == str(error)
    assert str(PepnetError()) == ""


@pytest.mark.parametrize(
    "batch",
    [
        {"x": [1, "a" * 10**6]},
        {"x": ["\ud800" * 10**6]},
        {"x": np.zeros(1, dtype=[("n" * 10**5, "i8")])},
        {"y" * 10**6: [1]},
        {f"{i}\x1b[2J" * 100: [1] for i in range(1000)},
    ],
    ids=["value", "surrogates", "dtype", "name", "names"],
)
def test_messages_about_columns(batch: dict[str, object]) -> None:
    with pytest.raises(SchemaError) as caught:
        read_columns(batch, ["x"])
    assert len(str(caught.value)) <= MOST_MESSAGE + 1
    assert str(caught.value).isprintable()


def test_messages_about_types() -> None:
    wide = pa.array([{f"field {i}": 1 for i in range(1000)}])
    assert len(str(type_error("x" * 1000, "integer ids", wide))) < 400
