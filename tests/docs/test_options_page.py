"""docs/options.md has every option as the code has it: name, values, default."""

from __future__ import annotations

import msgspec
import pytest
from page_blocks import table_below

from pepnet_infer import CacheConfig, FieldConfig
from pepnet_infer.sync import FollowConfig, Guard
from pepnet_infer.validation import Options, describe, kinds_of


@pytest.mark.parametrize("options", [CacheConfig, FieldConfig, FollowConfig, Guard])
def test_every_option_is_on_the_page_with_its_values_and_default(options: type[Options]) -> None:
    rows = table_below("docs/options.md", f"## {options.__name__}")
    made = options()
    assert [row[:3] for row in rows] == [
        [f"`{field.name}`", describe(kinds_of(options)[field.name]), f"`{getattr(made, field.name)!r}`"]
        for field in msgspec.structs.fields(options)
    ]
    assert all(row[3] for row in rows)
