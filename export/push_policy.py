"""When a row that changed is pushed, and when it is held back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pepnet_infer.errors import UpdateError
from pepnet_infer.schema import FeatureSchema


@dataclass(frozen=True)
class PushPolicy:
    """Of one table. Raises UpdateError for values out of range.

    mode "limit": an id is pushed at most `limit` times in an interval, floor(now / interval); the value it has when the
    next begins is pushed then. mode "after_expiry": an id is pushed again only when the time of the row that was pushed
    last, `ttl`, is over.
    """

    mode: Literal["limit", "after_expiry"] = "limit"
    limit: int = 1
    interval: float = 60.0  #: seconds
    ttl: float = math.inf  #: seconds from the push until the row expires where it is served
    max_ids: int | None = None  #: ids that may have a row; beyond it those with the lowest scores go
    min_updates: int = 1  #: occurrences in training before an id is pushed
    unseen_after: float = math.inf  #: seconds without one after which an id that did not reach them is forgotten

    def __post_init__(self) -> None:
        if self.mode not in ("limit", "after_expiry"):
            raise UpdateError("config", f"mode: expected limit or after_expiry, got {self.mode!r}")
        for name in ("limit", "min_updates", *(() if self.max_ids is None else ("max_ids",))):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UpdateError("config", f"{name}: expected an integer from 1, got {value!r}")
        if not (math.isfinite(self.interval) and self.interval > 0):
            raise UpdateError("config", f"interval: expected seconds above 0, got {self.interval!r}")
        for name in ("ttl", "unseen_after"):
            if not getattr(self, name) > 0:
                raise UpdateError("config", f"{name}: expected seconds above 0, got {getattr(self, name)!r}")
        if self.mode == "after_expiry" and not math.isfinite(self.ttl):
            raise UpdateError("config", "ttl: expected seconds where rows are pushed after their expiry, got none")


def by_table(
    schema: FeatureSchema, policies: Mapping[str, PushPolicy], default: PushPolicy | None = None
) -> dict[str, PushPolicy]:
    """Returns the policy of each table; `policies` by name of a field, or of a table, `default` for the others.

    Raises UpdateError for a name that is none, and for two policies of a table.
    """
    found = dict.fromkeys(schema.table_by_name, default or PushPolicy())
    said: dict[str, str] = {}
    for name, policy in policies.items():
        spec = schema.field_by_name.get(name)
        table = name if spec is None else spec.table
        if table is None or table not in found:
            there = sorted({field.name for field in schema.fields if field.table is not None})
            raise UpdateError("config", f"policies: expected fields with a table ({', '.join(there)}), got {name!r}")
        other = said.setdefault(table, name)
        if policies[other] != policy:
            raise UpdateError(
                "config", f"policies: expected one of table {table!r}, got different ones for {other!r}, {name!r}"
            )
        found[table] = policy
    return found
