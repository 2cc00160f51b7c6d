import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.feature_schema import FeatureSchema

TEXT = """
name: small
tables: {user: {dim: 8}, video: {dim: 8}, tab: {dim: 4}}
joins: {history: {key: user_id, file: history.parquet}}
domain: {column: tab, values: [0, 1, 2]}
tasks: {click: is_click, like: is_like}
fields:
  - {name: duration, kind: dense, side: item, column: duration_ms, transform: log1p}
  - {name: user_id, kind: id, side: user, table: user, inputs: [general, prior]}
  - {name: watched, kind: bag, side: user, table: video, join: history, column: watch_seq, max_len: 20}
  - {name: tab, kind: id, side: domain, table: tab, inputs: [domain, general]}
"""


def schema() -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load(TEXT))


def test_layout_is_ids_then_bags_then_dense() -> None:
    layout = FeatureSchema.from_json(schema()).layout
    assert [(s.field.name, s.offset, s.width) for s in layout["general"]] == [
        ("user_id", 0, 8),
        ("tab", 8, 4),
        ("watched", 12, 8),
        ("duration", 20, 1),
    ]
    assert [s.field.name for s in layout["domain"]] == ["tab"]
    assert [s.field.name for s in layout["prior"]] == ["user_id"]


def test_widths_and_columns() -> None:
    parsed = FeatureSchema.from_json(schema())
    assert parsed.widths == {"general": 21, "domain": 4, "prior": 8}
    assert parsed.columns == ("duration_ms", "user_id", "tab")


def test_round_trip_through_json_keeps_the_hash() -> None:
    parsed = FeatureSchema.from_json(schema())
    again = FeatureSchema.from_json(json.loads(json.dumps(parsed.to_json())))
    assert again == parsed
    assert again.hash == parsed.hash


def test_table_numbers_survive_sorted_json() -> None:
    parsed = FeatureSchema.from_json(schema())
    again = FeatureSchema.from_json(json.loads(json.dumps(parsed.to_json(), sort_keys=True)))
    assert {t.name: t.number for t in again.tables} == {"user": 0, "video": 1, "tab": 2}


def _dim(d: dict[str, Any]) -> None:
    d["tables"]["user"]["dim"] = 9


def _order(d: dict[str, Any]) -> None:
    d["fields"].reverse()


def _tasks(d: dict[str, Any]) -> None:
    d["tasks"] = {"like": "is_like", "click": "is_click"}


def _pooling(d: dict[str, Any]) -> None:
    d["fields"][2]["pooling"] = "sum"


@pytest.mark.parametrize("change", [_dim, _order, _tasks, _pooling])
def test_hash_sees_what_changes_the_inputs(change: Callable[[dict[str, Any]], None]) -> None:
    other = schema()
    change(other)
    assert FeatureSchema.from_json(other).hash != FeatureSchema.from_json(schema()).hash


def test_normalisation_makes_it_fitted_and_changes_the_hash() -> None:
    parsed = FeatureSchema.from_json(schema())
    assert not parsed.fitted
    fitted = parsed.with_normalisation({"duration": (9.5, 1.25)})
    assert fitted.fitted
    assert fitted.hash != parsed.hash
    assert FeatureSchema.from_json(fitted.to_json()) == fitted


def _set(path: list[Any], value: object) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        node: Any = data
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return change


def _drop(path: list[Any]) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        node: Any = data
        for key in path[:-1]:
            node = node[key]
        del node[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop(["tasks"]), r"schema: missing key 'tasks'"),
        (_set(["colour"], 1), r"schema: unknown key 'colour'"),
        (
            _set(["tables", "user", "dim"], 0),
            r"schema\.tables\.user\.dim: expected an integer from 1 to 2147483647, got 0",
        ),
        (
            _set(["tables", "user", "dim"], "8"),
            r"schema\.tables\.user\.dim: expected an integer from 1 to 2147483647, got '8'",
        ),
        (_set(["tables", "user", "number"], 1), r"schema\.tables: expected distinct numbers, got \[1, 1, 2\]"),
        (_set(["tables", "../x"], {"dim": 2}), r"expected a name of letters, digits and _, got '\.\./x'"),
        (
            _set(["fields", 1, "kind"], "text"),
            r"schema\.fields\[1\] \(user_id\)\.kind: expected one of bag, dense, id, got 'text'",
        ),
        (
            _set(["fields", 1, "side"], "shop"),
            r"\(user_id\)\.side: expected one of author, context, domain, item, user, got",
        ),
        (_set(["fields", 1, "table"], "users"), r"user_id\.table: expected one of tab, user, video, got 'users'"),
        (_drop(["fields", 1, "table"]), r"user_id\.table: expected one of tab, user, video, got None"),
        (_set(["fields", 0, "table"], "user"), r"\(duration\): table: a dense field has no table, got 'user'"),
        (_set(["fields", 2, "join"], "clicks"), r"watched\.join: expected one of history, got 'clicks'"),
        (
            _set(["fields", 2, "max_len"], 0),
            r"\(watched\)\.max_len: expected an integer from 1 to 2147483647 or None, got 0",
        ),
        (_set(["fields", 2, "pooling"], "max"), r"\(watched\)\.pooling: expected one of mean, sum, got 'max'"),
        (
            _set(["fields", 1, "inputs"], ["deep"]),
            r"\(user_id\)\.inputs\[0\]: expected one of domain, general, prior, got 'deep'",
        ),
        (_set(["fields", 1, "name"], "tab"), r"schema\.fields: duplicate name 'tab'"),
        (_set(["fields", 1, "width"], 3), r"schema\.fields\[1\] \(user_id\): unknown key 'width'"),
        (_set(["fields", 0, "std"], 0.0), r"\(duration\)\.std: expected a number above 0 or None, got 0\.0"),
        (_set(["fields", 0, "fill"], float("nan")), r"\(duration\)\.fill: expected a number, got nan"),
        (_set(["fields", 0, "transform"], "sqrt"), r"\(duration\)\.transform\.op: expected one of bucketize, hour"),
        (
            _set(["fields", 0, "transform"], {"op": "bucketize", "boundaries": [2, 1]}),
            r"boundaries: expected ascending numbers, got \[2\.0, 1\.0\]",
        ),
        (_set(["domain", "values"], []), r"schema\.domain\.values: expected distinct values, got \[\]"),
        (_set(["domain", "values"], [0, 0]), r"expected distinct values, got \[0, 0\]"),
        (_set(["domain", "values"], [0, "a"]), r"expected all integers or all strings, got both"),
        (
            _set(["domain", "values"], [-1]),
            r"schema\.domain\.values\[0\]: expected an integer from 0 to 281474976710655 or text, got -1",
        ),
        (_set(["tasks"], {}), r"schema\.tasks: expected at least one, got none"),
    ],
)
def test_refuses(change: Callable[[dict[str, Any]], None], message: str) -> None:
    data = schema()
    change(data)
    with pytest.raises(SchemaError, match=message):
        FeatureSchema.from_json(data)


def test_boundaries_that_are_null_are_none() -> None:
    data = schema()
    data["fields"][0]["transform"] = {"op": "none", "boundaries": None}
    assert FeatureSchema.from_json(data).fields[0].transform.boundaries == ()
