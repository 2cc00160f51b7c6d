"""When a row that changed is pushed, and when it is held back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from pepnet_infer.errors import ConfigError
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.validation import Options, Positive, Several

#: Seconds, or inf for a time that never comes.
Time = Annotated[float, Meta(gt=0)]


class PushPolicy(Options, frozen=True):
    """Of one table. Raises ConfigError for values out of range.

    mode "limit": an id is pushed at most `limit` times in an interval, floor(now / interval); the value it has when the
    next begins is pushed then. mode "after_expiry": an id is pushed again only when the time of the row that was pushed
    last, `ttl`, is over.
    """

    mode: Literal["limit", "after_expiry"] = "limit"
    limit: Several = 1
    interval: Positive = 60.0  #: seconds
    ttl: Time = math.inf  #: seconds from the push until the row expires where it is served
    max_ids: Several | None = None  #: ids that may have a row; beyond it those with the lowest scores go
    min_updates: Several = 1  #: occurrences in training before an id is pushed
    unseen_after: Time = math.inf  #: seconds without one after which an id that did not reach them is forgotten

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode == "after_expiry" and not math.isfinite(self.ttl):
            raise ConfigError("ttl: expected seconds where rows are pushed after their expiry, got none")


def by_table(
    schema: FeatureSchema, policies: Mapping[str, PushPolicy], default: PushPolicy | None = None
) -> dict[str, PushPolicy]:
    """Returns the policy of each table; `policies` by name of a field, or of a table, `default` for the others.

    Raises ConfigError for a name that is none, and for two policies of a table.
    """
    found = dict.fromkeys(schema.table_by_name, default or PushPolicy())
    said: dict[str, str] = {}
    for name, policy in policies.items():
        spec = schema.field_by_name.get(name)
        table = name if spec is None else spec.table
        if table is None or table not in found:
            there = sorted({field.name for field in schema.fields if field.table is not None})
            raise ConfigError(f"policies: expected fields with a table ({', '.join(there)}), got {name!r}")
        other = said.setdefault(table, name)
        if policies[other] != policy:
            raise ConfigError(f"policies: expected one of table {table!r}, got different ones for {other!r}, {name!r}")
        found[table] = policy
    return found
