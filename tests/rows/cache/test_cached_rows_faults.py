"""What `CachedRows` serves and says when its store fails, or has a row that cannot be served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from formula_store import DIM, A, Formula, fail, keys_of, rows_of, rows_over
from row_questions import look_up

from pepnet_infer import StoreError
from pepnet_infer.rows.protocols import RowRequest
from pepnet_infer.schema.ids import MISSING_KEY
from pepnet_infer.schema.row_batch import RowBatch


@pytest.fixture
def store() -> Formula:
    return Formula()


def faulty(before: Exception | None = None, change: Callable[[RowBatch], Any] | None = None) -> Formula:
    store = Formula()
    if before is not None:
        store.before = fail(before)
    if change is not None:
        store.change = change
    return store


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: faulty(StoreError("redis: down")), "redis: down"),
        (lambda: faulty(TimeoutError("too slow")), "expected an answer, got TimeoutError: too slow"),
        (lambda: faulty(KeyError("x")), "expected an answer, got KeyError"),
        (lambda: faulty(change=lambda f: None), "expected RowBatch, got NoneType"),
        (lambda: faulty(change=lambda f: replace(f, rows=f.rows[:, :-1])), r"rows: expected float32 \[2, 6\], got "),
        (
            lambda: faulty(change=lambda f: f.take(slice(len(f.rows) - 1))),
            r"rows: expected float32 \[2, 6\], got ",
        ),
        (lambda: faulty(change=lambda f: replace(f, rows=f.rows.astype(np.float64))), "rows: expected float32 "),
        (lambda: faulty(change=lambda f: replace(f, found=f.found.astype(np.uint8))), "found: expected bool "),
    ],
)
def test_a_fault_costs_default_rows_and_a_count_unless_it_is_asked_for(
    make: Callable[[], Formula], message: str
) -> None:
    store = make()
    rows, out = rows_over(store), np.empty((3, DIM), np.float32)
    known = keys_of(A, 1)
    rows.cache("a").insert(known, rows_of(known))
    keys = keys_of(A, 1, 2, 3)
    for _ in range(2):  # nothing of it is kept: it is asked again
        assert look_up(rows, "a", keys, out) == 2
        np.testing.assert_array_equal(out, [rows_of(known)[0], [-1] * DIM, [-1] * DIM])
    stats = rows.stats()
    assert stats["store"]["faults"] == 2
    assert len(store.asked) in (2, 6)  # for the keys one by one too, where something is wrong with the answer
    assert stats["defaults"]["fault"] == stats["tables"]["a"]["defaults"] == stats["total"]["unavailable"] == 4
    assert stats["widths"][str(DIM)]["negatives"] == stats["flights"] == 0
    with pytest.raises(StoreError, match=message):
        look_up(rows_over(store, on_fault="raise"), "a", keys[1:], out[1:])
    store.before, store.change = (lambda keys: None), (lambda fetched: fetched)
    assert look_up(rows, "a", keys, out) == 0
    np.testing.assert_array_equal(out, rows_of(keys))


def test_unavailable_keys_are_told_from_unknown_ones(store: Formula) -> None:
    """In one batch: known not to exist, of a field whose fetch failed, and of a bag; every repeat counts."""
    rows, out, bags = rows_over(store), np.empty((4, DIM), np.float32), np.empty((2, DIM), np.float32)
    assert look_up(rows, "a", keys_of(A, 5000), out[:1]) == 1
    store.before = fail(StoreError("down"))
    requests = [
        RowRequest("item", "a", np.concatenate([keys_of(A, 5000, 1, 1), [MISSING_KEY]]), out),
        RowRequest("history", "a", keys_of(A, 5000, 5000, 2), bags, np.array([0, 1, 3]), "mean"),
    ]
    assert rows.answer(requests) == [(2, 2), (2, 1)]
    assert rows.stats()["fields"]["item"]["unavailable"] == 2
    store.before = lambda keys: None
    assert rows.answer(requests) == [(2, 0), (2, 0)]


def test_faults_are_said_at_once_then_seldom_and_their_end_once(
    store: Formula, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("pepnet_infer.throttled_warnings.monotonic", lambda: now[0])
    rows, out = rows_over(store), np.empty((1, DIM), np.float32)
    store.before = fail(StoreError("redis: no such host"))
    for _ in range(5):
        look_up(rows, "a", keys_of(A, 1), out)
    now[0] += 61
    look_up(rows, "a", keys_of(A, 1), out)
    store.before = lambda keys: None
    for id in (1, 2, 3):
        look_up(rows, "a", keys_of(A, id), out)
    said = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    warning = "no answer from the store{}: StoreError: redis: no such host"
    assert said == [
        ("pepnet_infer.stores", "WARNING", text)
        for text in (
            warning.format(""),
            warning.format(" (5 since the last warning)"),
            "the store answers again, after 6 questions without an answer",
        )
    ]


def test_a_damaged_row_costs_its_own_id_and_is_asked_for_again(store: Formula) -> None:
    rows, out = rows_over(store, on_fault="raise"), np.empty((4, DIM), np.float32)
    bad = keys_of(A, 2)

    def damage(fetched: RowBatch) -> RowBatch:
        wrong = store.asked[-1] == bad
        return replace(fetched, found=fetched.found & ~wrong, damaged=wrong)

    store.change = damage
    for _ in range(2):
        assert rows.answer([RowRequest("", "a", keys_of(A, 1, 2, 3, 5000), out)]) == [(1, 1)]
        np.testing.assert_array_equal(out[[0, 2]], rows_of(keys_of(A, 1, 3)))
        np.testing.assert_array_equal(out[[1, 3]], np.full((2, DIM), -1))
    assert store.asked[-1].tolist() == bad.tolist()
    stats = rows.stats()
    assert (stats["defaults"]["damaged"], stats["store"]["damaged"], stats["store"]["faults"]) == (2, 2, 0)
    assert "id 2 of table 3" in stats["store"]["last_fault"]
    store.change = lambda fetched: fetched
    assert rows.answer([RowRequest("", "a", bad, out[:1])]) == [(0, 0)]
