"""Options and documents are checked by their types, with messages that name the key."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from msgspec import Meta, Struct, field

from pepnet_infer import ConfigError, PepnetError
from pepnet_infer.errors import BundleError
from pepnet_infer.validation import Options, Positive, check_option, convert, untrusted


class Rule(Options, frozen=True):
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0


class Some(Options, frozen=True):
    how: Literal["fast", "slow"] = "fast"
    count: Annotated[int, Meta(ge=1, le=9)] | None = None
    wait: Positive = 1.0
    rules: Mapping[str, Rule] = {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"how": "x"}, "how: expected one of fast, slow, got 'x'"),
        ({"count": 0}, "count: expected an integer from 1 to 9 or None, got 0"),
        ({"count": True}, "count: expected an integer from 1 to 9 or None, got True"),
        ({"count": 10**400}, "count: expected an integer from 1 to 9 or None, got an integer of 1329 bits"),
        ({"wait": float("nan")}, "wait: expected a number above 0, got nan"),
        ({"wait": float("inf")}, "wait: expected a number above 0, got inf"),
        ({"wait": 10**400}, "wait: expected a number above 0, got an integer of 1329 bits"),
        ({"wait": "1"}, "wait: expected a number above 0, got '1'"),
        ({"rules": {"a": Rule(), "b": 3}}, "rules.b: expected a Rule, got 3"),
        ({"rules": {"b": {"share": 2}}}, "rules.b.share: expected a number above 0 to 1, got 2"),
        ({"rules": [1]}, r"rules: expected a mapping to a Rule, got \[1\]"),
        ({"how": "x\ud800"}, r"how: expected text in UTF-8, got 'x\\ud800'"),
    ],
)
def test_options_are_checked_when_they_are_made(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}$") as error:
        Some(**given)
    assert isinstance(error.value, ValueError)
    assert isinstance(error.value, PepnetError)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_numbers_of_numpy_and_whole_numbers_are_taken() -> None:
    some = Some(count=np.int64(3), wait=np.float32(0.5))  # type: ignore[arg-type]
    assert (some.count, some.wait, type(some.count), type(some.wait)) == (3, 0.5, int, float)
    assert Some(wait=2) == Some(wait=2.0)
    assert pickle.loads(pickle.dumps(some)) == some
    assert check_option("threads", np.int32(2), int) == 2


class Document(Struct):
    files: dict[str, int]
    rows: list[list[float]] = []
    kind: Literal["log"] = "log"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "here: missing key 'files'"),
        ({"files": {"a": "1"}}, "here: files.a: expected an integer, got '1'"),
        ({"files": {}, "rows": [[0.5], [1, "x"]]}, r"here: rows\[1\]\[1\]: expected a number, got 'x'"),
        ({"files": {}, "kind": "lag"}, "here: kind: expected 'log', got 'lag'"),
        ({"files": []}, r"here: files: expected a mapping to an integer, got \[\]"),
    ],
)
def test_documents_name_the_key(document: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError, match=f"^{said}"):
        convert("here", document, Document, BundleError)


def test_what_nobody_expected_of_content_is_the_error_asked_for() -> None:
    with (
        pytest.raises(BundleError, match=r"^t: expected what this package writes, got content that leads to KeyError"),
        untrusted("t", BundleError),
    ):
        {}["no such key"]
    with pytest.raises(ConfigError), untrusted("t", BundleError):
        raise ConfigError("stays what it is")


class Renamed(Struct, forbid_unknown_fields=True):
    number: Annotated[int, Meta(ge=0)] = field(name="pass")
    last: int


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"pass": -1, "last": 1}, "f: pass: expected an integer from 0, got -1"),
        ({"last": 1}, "f: missing key 'pass'"),
        ({"pass": 1}, "f: missing key 'last'"),
        ({"pass": 1, "last": 1, "number": 1}, "f: unknown key 'number'; known: pass, last"),
    ],
)
def test_keys_that_are_no_names_of_python_are_named(document: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        convert("f", document, Renamed, BundleError)
