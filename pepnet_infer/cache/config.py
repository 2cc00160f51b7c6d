"""What a cache may be told, checked when it is told."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pepnet_infer.errors import StoreError

if TYPE_CHECKING:
    from pepnet_infer._kernels import FieldRule
    from pepnet_infer.cache.update_window import UpdateWindow
    from pepnet_infer.schema import FeatureSchema

Policy = Literal["lru", "gset", "lfu", "sieve", "s3fifo"]
RowDtype = Literal["float32", "float16", "bfloat16", "int8"]
POLICIES: tuple[Policy, ...] = ("lru", "gset", "lfu", "sieve", "s3fifo")
DTYPES: tuple[RowDtype, ...] = ("float32", "float16", "bfloat16", "int8")

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(i?)B\s*", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_bytes(name: str, value: object) -> int:
    """Returns a number of bytes: an int, or text such as "512MiB", "1.5 GiB" or "64MB". Raises StoreError."""
    size = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is not None:
            number, prefix, binary = match.groups()
            size = int(float(number) * (1024 if binary else 1000) ** _POWERS[prefix.upper()])
        elif value.strip().isdecimal():
            size = int(value)
    if size is None or not 1 <= size < 1 << 48:
        raise StoreError(f"{name}: expected bytes, as an integer from 1 or text such as '512MiB', got {value!r}")
    return size


@dataclass(frozen=True)
class FieldConfig:
    """What the rows of one field are treated like; a field's rows are those of its table.

    priority: rows of "high" are never evicted by score, only when they have expired. ttl: seconds after which a row
    that came without an expiry of its own expires. share: of the rows the cache can hold, as many as the field may
    have. admission: the probability that an id that is not there is admitted; None is the cache's.
    """

    priority: Literal["normal", "high"] = "normal"
    ttl: float | None = None
    share: float = 1.0
    admission: float | None = None

    def __post_init__(self) -> None:
        choose("priority", self.priority, ("normal", "high"))
        if self.ttl is not None:
            check_number("ttl", self.ttl, 0, math.inf, above=True)
        check_number("share", self.share, 0, 1, above=True)
        if self.admission is not None:
            check_number("admission", self.admission, 0, 1)

    def rule(self, table: int) -> FieldRule:
        """Returns the same for the extension, for table number `table`."""
        rule: FieldRule = {"table": table, "high_priority": self.priority == "high", "share": float(self.share)}
        if self.ttl is not None:
            rule["ttl"] = float(self.ttl)
        if self.admission is not None:
            rule["admission"] = float(self.admission)
        return rule


@dataclass(frozen=True)
class CacheConfig:
    """How an engine caches rows. Raises StoreError, naming the option, what was expected and what came.

    policy: what is evicted, one of `POLICIES`. capacity: bytes, an integer or text such as "512MiB"; of these an
    engine takes no more than all rows of its bundle need. dtype: how rows are kept; with another one than float32
    scores differ from those without a cache. fields: by name of a field, or of a table.

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

    warm: whether the cache begins with the bundle's rows, highest score first. update_window: see `UpdateWindow`.
    """

    policy: Policy = "gset"
    capacity: int | str = "512MiB"
    dtype: RowDtype = "float32"
    fields: Mapping[str, FieldConfig] = field(default_factory=dict)
    beta: float = 0.1
    r: float = 3.0
    interval: float = 86400.0
    admission: float = 1.0
    budget_ms: float | None = None
    on_fault: Literal["default", "raise"] = "default"
    on_load: Literal["raise", "warn"] = "raise"
    async_above: float | None = None
    negative_ttl: float | None = 60.0
    tombstone_ttl: float = 3600.0
    warm: bool = True
    update_window: UpdateWindow | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        choose("policy", self.policy, POLICIES)
        choose("dtype", self.dtype, DTYPES)
        choose("on_fault", self.on_fault, ("default", "raise"))
        choose("on_load", self.on_load, ("raise", "warn"))
        parse_bytes("capacity", self.capacity)
        check_number("beta", self.beta, 0, 1, above=True)
        check_number("r", self.r, 0, math.inf, above=True)
        check_number("interval", self.interval, 0, math.inf, above=True)
        check_number("admission", self.admission, 0, 1)
        if self.negative_ttl is not None:
            check_number("negative_ttl", self.negative_ttl, 0, math.inf, above=True)
        check_number("tombstone_ttl", self.tombstone_ttl, 0, math.inf, above=True)
        if self.budget_ms is not None:
            check_number("budget_ms", self.budget_ms, 0, math.inf)
        if self.async_above is not None:
            check_number("async_above", self.async_above, 0, 1)
        if not isinstance(self.warm, bool):
            raise StoreError(f"warm: expected true or false, got {self.warm!r}")
        if not isinstance(self.fields, Mapping):
            raise StoreError(f"fields: expected field names with a FieldConfig each, got {self.fields!r}")
        for name, rule in self.fields.items():
            if not isinstance(rule, FieldConfig):
                raise StoreError(f"fields[{name!r}]: expected a FieldConfig, got {rule!r}")

    @property
    def capacity_bytes(self) -> int:
        """`capacity` as a number."""
        return parse_bytes("capacity", self.capacity)

    def rules(self, schema: FeatureSchema) -> list[FieldRule]:
        """Returns `fields` by table number. Raises StoreError for a name that is none, and for two rules of a table."""
        tables: dict[str, str] = {}
        for name in self.fields:
            spec = schema.field_by_name.get(name)
            table = name if spec is None else spec.table
            if table is None or table not in schema.table_by_name:
                there = sorted({f.name for f in schema.fields if f.table is not None})
                raise StoreError(f"fields: expected fields with a table ({', '.join(there)}), got {name!r}")
            other = tables.setdefault(table, name)
            if self.fields[other] != self.fields[name]:
                raise StoreError(
                    f"fields: expected one FieldConfig for table {table!r}, got different ones for {other!r}, {name!r}"
                )
        return [self.fields[name].rule(schema.table_by_name[table].number) for table, name in tables.items()]


def choose(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raises StoreError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise StoreError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")


def check_number(name: str, value: Any, least: float, most: float, above: bool = False) -> None:
    """Raises StoreError unless `value` is a finite number from `least` (or above it) to `most`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value > most or value < least or (above and value == least):
        bound = f"above {least}" if above else f"from {least}"
        raise StoreError(f"{name}: expected a number {bound}{'' if most == math.inf else f' to {most}'}, got {value!r}")
