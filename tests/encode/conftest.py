"""A batch for the toy schema, and the check that a broken column is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.feature_schema import FeatureSchema

Batch = dict[str, Any]


@pytest.fixture
def batch(toy_batch: Callable[..., Batch]) -> Batch:
    return toy_batch(4, 3) | {"watched": [[1], [2, 3], [], [4]]}


@pytest.fixture
def refused(toy_schema: FeatureSchema, batch: Batch) -> Callable[..., SchemaError]:
    """Returns the error that the toy batch raises with one column replaced; the message must be exactly `message`."""
    encoder = Encoder(toy_schema, {})
    encoder.encode(read_columns(batch, encoder.columns))

    def check(column: str, data: object, message: str) -> SchemaError:
        with pytest.raises(SchemaError, match=f"^{re.escape(message)}$") as caught:
            encoder.encode(read_columns(batch | {column: data}, encoder.columns))
        assert caught.value.column == column
        return caught.value

    return check
