"""Errors of the package cross processes and are copied as they are."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import pickle
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pepnet_infer
from pepnet_infer import errors
from pepnet_infer.encode.arrays import as_array
from pepnet_infer.errors import BundleError, SchemaError, StoreError, UpdateError
from pepnet_infer.quoting import MOST_MESSAGE
from pepnet_infer.sync.logs.open import open_transport

PATIENCE_S = 60.0
_CLASS = re.compile(r"^class (\w+)\((?:.*, )?\w*(?:Error|Exception|Warning)\b.*\):", re.MULTILINE)


def _all() -> list[type[Exception]]:
    """Every class of an exception in a file of the package, whether or not anything else imports that file."""
    root, kinds = Path(pepnet_infer.__file__).parent, []
    for path in sorted(root.rglob("*.py")):
        for name in _CLASS.findall(path.read_text()):
            module = import_module(".".join(["pepnet_infer", *path.relative_to(root).with_suffix("").parts]))
            kind = getattr(module, name)
            assert issubclass(kind, Exception)
            kinds.append(kind)
    return kinds


def _made(kind: type[Exception]) -> Any:
    """One with every field set."""
    given: dict[str, object] = {
        name: f"the {name}" if parameter.annotation in ("str", "str | None") else 3
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if name != "self" and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    if issubclass(kind, errors.PepnetError):
        given |= {"within": "items", "file": "a.parquet", "column": "c", "expected": "numbers", "got": "text"}
        given |= {"row": 3, "row_group": 1, "rows": 2, "remarks": ("3 nulls",), "cause": "of a join"}
    return kind(**given) if given else kind("a message")


def _pickled(error: Exception) -> Exception:
    loaded: Exception = pickle.loads(pickle.dumps(error))
    return loaded


def test_every_error_of_the_package_pickles_and_copies_with_its_attributes() -> None:
    kinds = _all()
    assert {errors.PepnetError, SchemaError, UpdateError, errors.BundleError} <= set(kinds)
    ways: list[Callable[[Exception], Exception]] = [_pickled, copy.copy, copy.deepcopy]
    for kind in kinds:
        error = _made(kind)
        error.add_note("a note")
        for way in ways:
            other = way(error)
            assert type(other) is kind
            assert (str(other), other.args) == (str(error), error.args)
            assert vars(other) == vars(error), kind
    fields = {
        "within": ["a.parquet", "items"],
        "file": "a.parquet",
        "expected": "numbers",
        "got": "text",
        "column": "c",
        "row": 3,
        "row_group": 1,
        "rows": 2,
        "remarks": ["3 nulls"],
        "cause": "of a join",
    }
    assert _made(SchemaError).fields() == fields
    assert _made(UpdateError).fields() == {**fields, "reason": "the reason"}


class NeedsMore(UpdateError):
    def __init__(self, where: str, *, entry: int) -> None:
        super().__init__("entry", f"{where}: entry {entry}")
        self.entry = entry


def test_so_does_one_that_a_user_derives() -> None:
    other = _pickled(NeedsMore("log", entry=4))
    assert isinstance(other, NeedsMore)
    assert (str(other), other.reason, other.entry) == ("log: entry 4", "entry", 4)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_pool_of_processes_hands_an_error_back() -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        with pytest.raises(UpdateError, match="s3://") as caught:
            pool.apply_async(open_transport, ("s3://bucket/log",)).get(PATIENCE_S)
        assert caught.value.reason


def test_data_that_does_not_fit_is_a_value_error_too() -> None:
    """As NumPy's and pandas' own: whoever catches that catches ours."""
    assert issubclass(SchemaError, ValueError)
    error = SchemaError(expected="numbers", got="text", column="x", row=3)
    assert (error.column, error.row, error.message) == ("x", 3, "expected numbers, got text")
    assert str(error) == "column 'x': expected numbers, got text at row 3"


def test_an_error_is_worded_of_its_fields_when_it_is_read() -> None:
    error = SchemaError(column="x", expected="no nulls", got="null", row=3, rows=5)
    inside = SchemaError.of(error, within="side table 'video'")
    located = SchemaError.of(inside, file="a.parquet", row=1003, row_group=2)
    assert str(inside) == "side table 'video': column 'x': expected no nulls, got null at row 3 (and 4 more)"
    assert str(located) == (
        "a.parquet: side table 'video': column 'x': expected no nulls, got null at row 1003 (row group 2) (and 4 more)"
    )
    assert (located.file, located.row, error.row, error.within) == ("a.parquet", 1003, 3, ())
    refused = UpdateError.of(located, reason="files", within="delta 7")
    assert (refused.reason, refused.file, refused.within[0]) == ("files", "a.parquet", "delta 7")
    assert str(refused) == f"delta 7: {located}"
    whole = SchemaError(column="x", expected="ids", got="double", remarks=("1 null", "2 NaN"), row_group=0)
    assert str(whole) == "column 'x': expected ids, got double (1 null, 2 NaN) at row group 0"
    assert str(SchemaError.of(error, cause="a join")).endswith("got null at row 3 (and 4 more); a join")
    assert str(SchemaError.of(error, rows=1)).endswith("got null at row 3")
    assert str(SchemaError.of(error, rows=2)).endswith("got null at row 3 (and 1 more)")
    assert repr(error) == f"SchemaError({str(error)!r})"


def test_errors_of_some_kinds_are_raised_as_another() -> None:
    def raised_as_update(error: Exception) -> None:
        with UpdateError.in_place_of(BundleError, ValueError, reason="files", file="a.json"):
            raise error

    with pytest.raises(UpdateError, match=r"^a\.json: expected a list, got None$") as raised:
        raised_as_update(SchemaError(expected="a list", got="None"))
    assert (raised.value.reason, raised.value.file) == ("files", "a.json")
    assert type(raised.value.__cause__) is SchemaError
    with pytest.raises(UpdateError, match=r"^a\.json: 3 < 4$"):
        raised_as_update(ValueError("3 < 4"))
    with pytest.raises(StoreError, match=r"^away$"):
        raised_as_update(StoreError("away"))


def test_a_sentence_is_one_line_of_bounded_length_whatever_the_fields_hold() -> None:
    error = SchemaError("x" * 5000, column="a\nb" * 1000, within="\x1b[2J" * 1000, row=1)
    assert len(str(error)) <= MOST_MESSAGE + 1
    assert str(error).isprintable()


def test_what_is_said_of_a_column_is_not_said_again_by_the_net_around_arrow() -> None:
    class Deep:
        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            return np.zeros((2, 2, 2))

    for data in (np.zeros((2, 2, 2)), Deep()):
        with pytest.raises(SchemaError) as caught:
            as_array("x", data)
        assert str(caught.value).count("column 'x'") == 1
        assert caught.value.column == "x"
        assert caught.value.__cause__ is None
