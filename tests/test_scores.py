"""`Scores` as an array, a table, a data frame, and sorted by a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pepnet_infer import ConfigError, Engine, SchemaError
from pepnet_infer.scores import Scores

VALUES = np.array([[0.1, 0.9], [0.7, 0.2], [0.3, 0.4], [0.7, 0.1]], np.float32)


@pytest.fixture
def scores() -> Scores:
    return Scores(VALUES.copy(), ("click", "like"), 7, {"user_id": 3})


def test_numpy_takes_scores_for_an_array_without_a_copy(scores: Scores) -> None:
    assert np.asarray(scores) is scores.values
    assert np.array(scores) is not scores.values
    np.testing.assert_array_equal(np.array(scores), VALUES)
    assert np.asarray(scores, np.float64).dtype == np.float64
    assert np.max(scores) == np.float32(0.9)
    with pytest.raises(ValueError, match="copy"):
        np.asarray(scores, np.float64, copy=False)


def test_tables_and_frames_have_a_column_a_task(scores: Scores) -> None:
    table = scores.to_arrow()
    assert table.column_names == ["click", "like"]
    assert [str(kind) for kind in table.schema.types] == ["float", "float"]
    np.testing.assert_array_equal(table["like"].to_numpy(), VALUES[:, 1])
    frame = scores.to_pandas(index=list("abcd"))
    assert list(frame.columns) == ["click", "like"]
    assert frame.loc["b", "click"] == np.float32(0.7)
    assert frame["like"].dtype == np.float32
    assert scores.to_pandas().index.tolist() == [0, 1, 2, 3]


def test_the_repr_says_what_they_are(scores: Scores) -> None:
    assert repr(scores) == "<Scores: 4 rows; tasks click, like; model_version 7; unknown {'user_id': 3}>"


def test_top_sorts_and_says_which_rows_they_are(scores: Scores) -> None:
    best = scores.top(3, "click")
    assert best.order is not None
    assert best.order.tolist() == [1, 3, 2]  # two of one score: as they came
    np.testing.assert_array_equal(best.values, VALUES[[1, 3, 2]])
    assert (best.tasks, best.model_version, best.unknown) == (scores.tasks, 7, scores.unknown)
    assert best.to_pandas().index.tolist() == [1, 3, 2]
    again = best.top(2, "like")
    assert again.order is not None
    assert again.order.tolist() == [2, 1]  # of the batch, not of what was sorted before
    assert len(scores.top(None, "like")) == 4
    assert len(scores.top(99, "like")) == 4
    assert len(scores.top(0, "like")) == 0


def test_top_leaves_out_rows_that_are_no_numbers() -> None:
    values = VALUES.copy()
    values[1] = np.nan
    scores = Scores(values, ("click", "like"), 7, invalid=np.array([False, True, False, False]))
    best = scores.top(None, "click")
    assert best.order is not None
    assert best.order.tolist() == [3, 2, 0]
    assert best.invalid is None
    assert "1 rows invalid" in repr(scores)


@pytest.mark.parametrize("k", [-1, 1.5, "2", True])
def test_a_count_that_is_none_is_refused(scores: Scores, k: Any) -> None:
    with pytest.raises(ConfigError, match="top: expected a number of rows, got "):
        scores.top(k, "click")


def test_rank_sorts_by_a_task(toy_bundle: Any, toy_batch: Callable[..., dict[str, Any]]) -> None:
    batch = toy_batch(30)
    with Engine.load(toy_bundle, check="sizes") as engine:
        once = {name: batch.pop(name)[0] for name in ("user_id", "tab")}
        domain, user = once["tab"], {"user_id": once["user_id"]}
        plain = engine.rank(user, batch, domain)
        best = engine.rank(user, batch, domain, top=5, by=engine.tasks[0])
        assert best.order is not None
        assert best.order.tolist() == np.argsort(-plain.values[:, 0], kind="stable")[:5].tolist()
        np.testing.assert_array_equal(best.values, plain.values[best.order])
        with pytest.raises(ConfigError, match="by: expected a task to sort by"):
            engine.rank(user, batch, domain, top=5)
        with pytest.raises(SchemaError, match=r"task: expected one of .*, got 'buy'"):
            engine.rank(user, batch, domain, by="buy")
