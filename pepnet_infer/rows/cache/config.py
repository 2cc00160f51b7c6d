"""Cache options and their validation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from pepnet_infer.errors import ConfigError
from pepnet_infer.validation import Count, NotNegative, Options, Positive, Share

if TYPE_CHECKING:
    from pepnet_infer._kernels import FieldRule
    from pepnet_infer.schema.feature_schema import FeatureSchema

Policy = Literal["lru", "gset", "lfu", "sieve", "s3fifo"]
RowDtype = Literal["float32", "float16", "bfloat16", "int8"]
POLICIES: tuple[Policy, ...] = ("lru", "gset", "lfu", "sieve", "s3fifo")
DTYPES: tuple[RowDtype, ...] = ("float32", "float16", "bfloat16", "int8")

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(i?)B\s*", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_bytes(name: str, value: object) -> int:
    """Returns a number of bytes: an int, or text such as "512MiB", "1.5 GiB" or "64MB". Raises ConfigError."""
    size = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is not None:
            number, prefix, binary = match.groups()
            size = int(min(float(number) * (1024 if binary else 1000) ** _POWERS[prefix.upper()], 1 << 48))
        elif value.strip().isdecimal():
            size = int(float(value)) if len(value) < 16 else 1 << 48
    if size is None or not 1 <= size < 1 << 48:
        raise ConfigError(f"{name}: expected bytes, as an integer from 1 or text such as '512MiB', got {value!r}")
    return size


class FieldConfig(Options, frozen=True):
    """What the rows of one field are treated like; a field's rows are those of its table.

    priority: rows of "high" are never evicted by score, only when they have expired. ttl: seconds after which a row
    that came without an expiry of its own expires. share: of the rows the cache can hold, as many as the field may
    have. admission: the probability that an id that is not there is admitted; None is the cache's.
    """

    priority: Literal["normal", "high"] = "normal"
    ttl: Positive | None = None
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    admission: Share | None = None

    def rule(self, table: int) -> FieldRule:
        """Returns the same for the extension, for table number `table`."""
        rule: FieldRule = {"table": table, "high_priority": self.priority == "high", "share": float(self.share)}
        if self.ttl is not None:
            rule["ttl"] = float(self.ttl)
        if self.admission is not None:
            rule["admission"] = float(self.admission)
        return rule


class CacheConfig(Options, frozen=True):
    """How an engine caches rows. Raises ConfigError, naming the option, what was expected and what came.

    policy: what is evicted, one of `POLICIES`. capacity: bytes, an integer or text such as "512MiB", all of them taken
    when an engine is loaded with a `store`; before a bundle's own tables it takes no more than all their rows need.
    dtype: how rows are kept; with another one than float32 scores differ from those without a cache. fields: by name of
    a field, or of a table.

    beta, r, interval: S <- (1-beta)·S + beta·(r·positive + negative) for each interval, in seconds. admission: the
    probability that an id that is not there is admitted.

    budget_ms: how long a batch may wait for the store; from then on its missing rows are the tables' default rows,
    counted, and the answer still fills the cache. None: as long as it takes. on_fault: what a store that fails costs:
    default rows and a count, or a StoreError out of `score`; a stored row that cannot be served costs its own id the
    default row in either case. on_load: what a store that cannot be read when the engine is loaded costs (down, a wrong
    password): a StoreError that names the reason, or a warning, and default rows until it answers. async_above: the hit
    rate from which on a batch does not wait for the store at all; None: it always does. negative_ttl: seconds for which
    an id the store does not have is not asked for again, which takes a place in the cache; None: it is asked for each
    time. tombstone_ttl: seconds for which a deletion is remembered.

    warm: whether the cache begins with the bundle's rows, highest score first. warm_from: a folder that
    `CachedRows.save` wrote, whose rows it begins with instead; it must be of the same rows as the store's. One that is
    not there, is damaged or of other rows is a StoreError or, where `on_load` is "warn", a warning, and `warm` holds.
    seed: of random draws (admission, rounding).
    """

    policy: Policy = "gset"
    capacity: int | str = "512MiB"
    dtype: RowDtype = "float32"
    fields: Mapping[str, FieldConfig] = {}
    beta: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    r: Positive = 3.0
    interval: Positive = 86400.0
    admission: Share = 1.0
    budget_ms: NotNegative | None = None
    on_fault: Literal["default", "raise"] = "default"
    on_load: Literal["raise", "warn"] = "raise"
    async_above: Share | None = None
    negative_ttl: Positive | None = 60.0
    tombstone_ttl: Positive = 3600.0
    warm: bool = True
    warm_from: str | None = None
    seed: Count = 0

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        parse_bytes("capacity", self.capacity)

    @property
    def capacity_bytes(self) -> int:
        """`capacity` as a number."""
        return parse_bytes("capacity", self.capacity)

    def rules(self, schema: FeatureSchema) -> list[FieldRule]:
        """Returns `fields` by table number. Raises ConfigError for an unknown name, and for two rules of a table."""
        tables: dict[str, str] = {}
        for name in self.fields:
            spec = schema.field_by_name.get(name)
            table = name if spec is None else spec.table
            if table is None or table not in schema.table_by_name:
                there = sorted({f.name for f in schema.fields if f.table is not None})
                raise ConfigError(f"fields: expected fields with a table ({', '.join(there)}), got {name!r}")
            other = tables.setdefault(table, name)
            if self.fields[other] != self.fields[name]:
                raise ConfigError(
                    f"fields: expected one FieldConfig for table {table!r}, got different ones for {other!r}, {name!r}"
                )
        return [self.fields[name].rule(schema.table_by_name[table].number) for table, name in tables.items()]
