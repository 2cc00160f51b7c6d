"""A publisher's state that is damaged or of somebody else's making: UpdateError "state", and books as they were."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pepnet_infer.errors import UpdateError
from pepnet_infer.export.publish.id_book import IdBook
from pepnet_infer.export.publish.publisher_state import Intent, State
from pepnet_infer.export.publish.push_policy import PushPolicy
from pepnet_infer.rows.gset import Gset
from pepnet_infer.storage.listing import describe_files
from pepnet_infer.storage.tensorfile import write_tensors
from pepnet_infer.sync.delta import DeltaHead

pytestmark = pytest.mark.hostile

HASH = "0" * 64


def book() -> IdBook:
    return IdBook(PushPolicy(), Gset())


def noted() -> dict[str, np.ndarray]:
    keys = np.arange(3, dtype=np.uint64)
    return {"keys": keys, "expires": np.full(3, np.inf), "gone": keys[:0]}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """One with three ids and a delta that was about to be appended."""
    made, full = State(tmp_path / "state"), book()
    full.may_be_pushed(noted(), 1000.0)
    head = DeltaHead(4, 5, 2, 1000.0, HASH)
    made.save(HASH, 4, 2, Intent(head, {"user": noted()}), {"user": full})
    return made


def refused(state: State, said: str) -> None:
    into = book()
    with pytest.raises(UpdateError, match=said) as caught:
        state.load(HASH, {"user": into})
    assert caught.value.reason == "state"
    assert str(state.path / "publisher.json") in str(caught.value)
    assert not len(into.to_tensors()["key"])


def forge(state: State, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the document, and lists the files as they are now."""
    path = state.path / "publisher.json"
    document = json.loads(path.read_text())
    path.unlink()
    document["files"] = describe_files(state.path)
    change(document)
    path.write_text(json.dumps(document))


def test_what_was_saved_is_loaded(state: State) -> None:
    into = book()
    saved = state.load(HASH, {"user": into})
    assert saved is not None
    assert (saved.model_version, saved.passes) == (4, 2)
    assert saved.intent is not None
    assert saved.intent.head == DeltaHead(4, 5, 2, 1000.0, HASH)
    np.testing.assert_array_equal(saved.intent.noted["user"]["keys"], [0, 1, 2])
    np.testing.assert_array_equal(into.to_tensors()["key"], [0, 1, 2])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(format_version=2), "format_version: expected .*1, got 2"),
        (lambda d: d.update(model_version=-1), "model_version: expected an integer from 0, got -1"),
        (lambda d: d.update(model_version="4"), "model_version: expected an integer.*, got '4'"),
        (lambda d: d.update(passes=True), "passes: expected an integer.*, got True"),
        (lambda d: d.pop("passes"), "missing key 'passes'"),
        (lambda d: d.update(more=1), "unknown key 'more'"),
        (lambda d: d["intent"].update(base_version="4"), "intent.base_version: expected an integer.*, got '4'"),
        (lambda d: d["intent"].update(model_version=3), "expected .*, got 4 to 3"),
        (lambda d: d["intent"].pop("produced_at"), "produced_at"),
        (lambda d: d.update(files=[]), "files: expected .*, got"),
        (lambda d: d["files"].clear(), "user.safetensors"),
    ],
)
def test_documents_that_say_something_else(state: State, change: Callable[[dict[str, Any]], object], said: str) -> None:
    forge(state, change)
    refused(state, said)


def _typed(name: str, value: np.ndarray) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("user", lambda t: t.pop("score"), "expected tensors key, .*, got"),
        ("user", _typed("key", np.zeros(3, np.float32)), r"key: expected uint64 \[3\], got float32 \[3\]"),
        ("user", _typed("key", np.zeros(3, np.uint64)), "key: expected each id once"),
        ("user", _typed("score", np.zeros(2)), r"score: expected float64 \[3\], got float64 \[2\]"),
        ("user", _typed("score", np.zeros((3, 1))), r"score: expected float64 \[3\], got float64 \[3, 1\]"),
        ("intent/user", _typed("expires", np.zeros(4)), r"expires: expected float64 \[3\], got float64 \[4\]"),
        ("intent/user", _typed("gone", np.zeros(2, np.int64)), r"gone: expected uint64 \[N\], got int64 \[2\]"),
        ("intent/user", _typed("more", np.zeros(2)), "expected tensors keys, expires, gone, got"),
    ],
)
def test_tensors_that_are_no_state(state: State, file: str, change: Callable[[Any], object], said: str) -> None:
    path = state.path / f"{file}.safetensors"
    tensors: dict[str, np.ndarray] = noted()
    if file == "user":
        full = book()
        full.may_be_pushed(noted(), 1000.0)
        tensors = full.to_tensors()
    change(tensors)
    path.unlink()
    write_tensors(path, tensors)
    forge(state, lambda document: None)
    refused(state, said)


def test_what_no_check_thought_of(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> None:
        raise IndexError("of nobody's making")

    monkeypatch.setattr("pepnet_infer.export.publish.publisher_state.read_tensors", fails)
    refused(state, "content that leads to IndexError: of nobody's making")


def test_bytes_that_are_damaged(state: State) -> None:
    path = state.path / "user.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    refused(state, "sha256")
    path.write_bytes(data[:-1])
    refused(state, re.escape("user.safetensors"))
    os.truncate(state.path / "publisher.json", 10)
    refused(state, "expected JSON")
