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

import numpy as np
import pytest

import pepnet_infer
from pepnet_infer import errors
from pepnet_infer.encode.arrays import as_array
from pepnet_infer.errors import SchemaError, UpdateError
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


def _made(kind: type[Exception]) -> Exception:
    given = {
        name: f"the {name}" if parameter.annotation in ("str", "str | None") else 3
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if name != "self" and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
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
    assert vars(_made(SchemaError)) == {"column": "the column", "row": 3}
    assert vars(_made(UpdateError)) == {"reason": "the reason"}


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
    error = SchemaError("column 'x': expected numbers", "x", 3)
    assert (error.column, error.row) == ("x", 3)


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
