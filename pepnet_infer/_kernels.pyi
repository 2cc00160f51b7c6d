"""The compiled extension. Arrays are checked, never converted; the GIL is released around the work.

A wrong dtype or byte order is a TypeError, a wrong shape or value a ValueError, each naming the argument. What each
part does is said where it is bound, in kernels/python: `help(_kernels)`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar, TypeVarTuple

import numpy as np
import numpy.typing as npt

_Result = TypeVar("_Result")
_Object = TypeVar("_Object")
_Args = TypeVarTuple("_Args")

# float32, float16, or bfloat16 as its uint16 bits
Rows = npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16]

class Cache(TypedDict):
    level: int
    type: str
    bytes: int

class CpuInfo(TypedDict):
    architecture: str
    vendor: str
    model: str
    present: dict[str, bool]
    usable: dict[str, bool]
    caches: list[Cache]

class CpuBudget(TypedDict):
    machine: int
    affinity: int
    quota: float | None
    quota_source: str
    threads: int

class BuildInfo(TypedDict):
    compiler: str
    baseline: str

def build_info() -> BuildInfo: ...
def cpu_info() -> CpuInfo: ...
def cpu_budget(root: str = "") -> CpuBudget: ...

class NumberColumns:
    def __init__(
        self,
        id_columns: int,
        uses: Sequence[tuple[int, int]],
        dense: Sequence[tuple[bool, tuple[float, float] | None]],
    ) -> None: ...
    def read(
        self,
        ids: list[npt.NDArray[Any] | None],
        dense: list[npt.NDArray[Any] | None],
        rows: int,
    ) -> tuple[list[npt.NDArray[np.uint64]], list[npt.NDArray[np.float32]], list[int], list[int]]: ...

def numpy_inside(values: object) -> tuple[bool, bool]: ...
def signed_log1p(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]: ...

class KeyIndex:
    def __init__(self, keys: npt.NDArray[np.uint64]) -> None: ...
    def find(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]: ...
    def __len__(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...

class SideRows:
    def __init__(
        self,
        keys: npt.NDArray[np.uint64],
        ids: npt.NDArray[np.uint64],
        dense: npt.NDArray[np.float32],
        bags: Sequence[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]],
    ) -> None: ...
    def take(
        self, keys: npt.NDArray[np.uint64], ids: Sequence[int], dense: Sequence[int], bags: Sequence[int]
    ) -> tuple[
        npt.NDArray[np.uint64],
        npt.NDArray[np.float32],
        list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]],
    ]: ...

def gather(
    rows: Rows,
    positions: npt.NDArray[np.int64],
    default_row: npt.NDArray[np.float32],
    out: npt.NDArray[np.float32],
) -> int: ...
def pool(
    rows: Rows,
    positions: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    pooling: Literal["mean", "sum"],
    default_row: npt.NDArray[np.float32],
    out: npt.NDArray[np.float32],
) -> int: ...

class FileLock:
    def __init__(self, path: str | os.PathLike[str], flags: int, wait: bool = True, fresh: bool = False) -> None: ...
    def __enter__(self) -> int: ...
    def __exit__(self, *error: object) -> None: ...

class FileMap:
    def __init__(self, descriptor: int) -> None: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def problem(self) -> str: ...
    def accept(self, changed_ns: int) -> None: ...
    @property
    def changed_ns(self) -> int: ...
    @property
    def identity(self) -> tuple[int, int, int, int]: ...

def all_as_mapped(maps: list[FileMap]) -> bool: ...

class Table:
    def __init__(self, keys: npt.NDArray[np.uint64], rows: Rows, default_row: npt.NDArray[np.float32]) -> None: ...
    def lookup(
        self,
        keys: npt.NDArray[np.uint64],
        out: npt.NDArray[np.float32],
        found: npt.NDArray[np.bool_] | None = None,
    ) -> int: ...
    def pool(
        self,
        keys: npt.NDArray[np.uint64],
        offsets: npt.NDArray[np.int64],
        pooling: Literal["mean", "sum"],
        out: npt.NDArray[np.float32],
    ) -> int: ...
    def __len__(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def index(self) -> KeyIndex: ...
    @property
    def lookups(self) -> int: ...
    @property
    def unknown(self) -> int: ...

IsaName = Literal["scalar", "avx2", "avx512", "amx"]
Precision = Literal["fp32", "bf16", "int8"]
Epilogue = Literal["linear", "relu", "gate", "gate_times", "relu_times", "relu_gated"]
Floats = npt.NDArray[np.float32]

class Isa(TypedDict):
    isa: IsaName
    precision: Precision
    built: bool
    usable: bool
    how: str
    why: str

class Choice(TypedDict):
    isa: IsaName
    how: str
    why: str

def isas() -> list[Isa]: ...
def choose(precision: str, isa: str = "") -> Choice: ...

class PackedMatrix:
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def panels(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def values(self) -> Floats: ...
    @property
    def scale(self) -> Floats | None: ...

def pack(w: Floats, b: Floats | None = None, precision: str = "fp32") -> PackedMatrix: ...

class Ops:
    @property
    def isa(self) -> IsaName: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def activation(self) -> Literal["f32", "bf16", "u8"]: ...
    @property
    def how(self) -> str: ...
    def product(
        self,
        a: Floats,
        packed: PackedMatrix,
        epilogue: Epilogue = "linear",
        *,
        mul: Floats | None = None,
        gamma: float = 1.0,
        gate_a: Floats | None = None,
        gate_packed: PackedMatrix | None = None,
        init: Floats | None = None,
        k_begin: int = 0,
        panel_begin: int = 0,
        panel_end: int | None = None,
        bf16_out: bool = False,
        padded: bool = False,
        copy: Floats | None = None,
    ) -> Floats: ...
    def mix(self, z: Floats, h: Floats) -> Floats: ...
    def score(self, h: Floats, w: Floats, b: float) -> Floats: ...
    def sigmoid(self, x: Floats) -> Floats: ...
    def convert(self, x: Floats) -> Floats: ...
    def quantize(self, x: Floats) -> tuple[npt.NDArray[np.uint8], Floats, npt.NDArray[np.int32]]: ...

def ops(isa: str, precision: str = "fp32") -> Ops: ...
def rows_without_probability(scores: Floats) -> npt.NDArray[np.bool_] | None: ...

class DenseFlags(TypedDict):
    general: int
    domain: int
    prior: int
    layers: list[int]
    towers: list[int]
    experts: int
    tasks: int
    backbone: str
    gate_position: str
    gate_scope: str
    epnet_general: bool
    use_epnet: bool
    use_ppnet: bool
    gamma: float
    gate_hidden: NotRequired[int | None]  # left out: what the tensors have

class DenseInfo(TypedDict):
    isa: IsaName
    precision: Precision
    activation: Literal["f32", "bf16", "u8"]
    how: str
    why: str
    packed_bytes: int
    wide_bytes: int
    block_rows: int
    row_bytes: int
    stages: list[str]

class DenseModel:
    def __init__(
        self,
        tensors: Mapping[str, Floats],
        flags: DenseFlags,
        isa: str = "auto",
        precision: str = "fp32",
        prefix_general: Sequence[tuple[int, int]] = (),
        block_rows: int = 0,
        split: str = "auto",
        domain: tuple[Sequence[Sequence[float]], Sequence[float]] | None = None,
    ) -> None: ...
    def run(
        self,
        general: Floats,
        domain: Floats,
        prior: Floats,
        threads: int = 1,
        spin: bool = True,
        shared_prefix: bool = False,
    ) -> Floats: ...
    def run_wide(
        self, general: Floats, domain: Floats, prior: Floats, threads: int = 1, spin: bool = True
    ) -> Floats: ...
    def describe(self) -> DenseInfo: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def outside_rows(self) -> int: ...
    @property
    def run_ns(self) -> int: ...

CachePolicy = Literal["lru", "gset", "lfu", "sieve", "s3fifo"]
Keys = npt.NDArray[np.uint64]
Outcomes = npt.NDArray[np.uint8]  # 0 miss, 1 row, 2 known not to exist

class FieldRule(TypedDict, total=False):
    table: int
    high_priority: bool
    ttl: float
    share: float
    admission: float

class RowOverlay:
    def __init__(
        self,
        keys: Keys,
        rows: Floats,
        gone: npt.NDArray[np.uint8] | None = None,
        expires: npt.NDArray[np.float64] | None = None,
    ) -> None: ...
    def find(self, keys: Keys) -> npt.NDArray[np.int64]: ...

#: (cache, overlay, default_row, keys, out, offsets, pooling, outcomes)
Job = tuple[
    RowCache, RowOverlay | None, Floats, Keys, Floats, npt.NDArray[np.int64] | None, Literal["mean", "sum"], Outcomes
]

def look_up(jobs: list[Job], counted: bool = True) -> list[tuple[int, int, int]]: ...

class EntryInfos(TypedDict):
    outcome: Outcomes
    tombstone: npt.NDArray[np.bool_]
    high_priority: npt.NDArray[np.bool_]
    scored: npt.NDArray[np.bool_]
    version: npt.NDArray[np.uint64]
    expires: npt.NDArray[np.float64]
    score: Floats

class CachePart(EntryInfos):
    keys: Keys
    rows: Floats
    order: npt.NDArray[np.uint64]

class RowCache:
    def __init__(
        self,
        dim: int,
        capacity_bytes: int,
        policy: str = "lru",
        dtype: str = "float32",  # float32, float16, bfloat16, int8
        *,
        max_rows: int = 0,
        beta: float = 0.1,
        r: float = 3.0,
        interval: float = 86400.0,
        admission: float = 1.0,
        tombstone_ttl: float = 3600.0,
        negative_ttl: float = 60.0,
        seed: int = 0,
        fields: Sequence[FieldRule] = (),
    ) -> None: ...
    def lookup(self, keys: Keys, out: Floats, outcomes: Outcomes | None = None, counted: bool = True) -> int: ...
    def lookup_pool(
        self,
        keys: Keys,
        offsets: npt.NDArray[np.int64],
        pooling: Literal["mean", "sum"],
        out: Floats,
        outcomes: Outcomes | None = None,
        counted: bool = True,
    ) -> int: ...
    def write(
        self,
        keys: Keys,
        rows: Floats,
        scores: Floats | None = None,
        versions: Keys | None = None,
        expires: npt.NDArray[np.float64] | None = None,
        update: bool = False,
        results: Outcomes | None = None,  # 0 stale, 1 inserted, 2 replaced, 3 rejected
        restore: bool = False,
        earned: npt.NDArray[np.bool_] | None = None,
        put: bool = False,
        known: bool = False,
    ) -> int: ...
    def forget(self, keys: Keys) -> int: ...
    def mark_absent(self, keys: Keys) -> None: ...
    def erase(self, keys: Keys, versions: Keys, expires: npt.NDArray[np.float64] | None = None) -> int: ...
    def feedback(self, keys: Keys, positive: npt.NDArray[np.bool_]) -> int: ...
    def peek(self, keys: Keys) -> EntryInfos: ...
    def replay(self, keys: Keys, hits: npt.NDArray[np.bool_] | None = None) -> int: ...
    @property
    def parts(self) -> int: ...
    def part(self, index: int) -> CachePart: ...
    @property
    def floor(self) -> int: ...
    def raise_floor(self, version: int) -> None: ...
    def clear(self) -> None: ...
    def set_time(self, now: float) -> None: ...  # nan: the clock's again
    def step_wall_clock(self, seconds: float) -> None: ...  # for tests
    @property
    def steady_time(self) -> float: ...
    @property
    def time(self) -> float: ...
    def stats(self) -> dict[str, int]: ...  # the names of CacheStats
    @property
    def dim(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def policy(self) -> CachePolicy: ...
    @property
    def capacity_rows(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...

class FlightTable:
    def __init__(self) -> None: ...
    def begin(self, keys: Keys, flight: int) -> Keys: ...
    def land(self, keys: Keys, flight: int) -> npt.NDArray[np.bool_] | None: ...
    def end(self, keys: Keys, flight: int) -> None: ...
    def touch(self, keys: Keys) -> None: ...
    def __len__(self) -> int: ...

class Fetch:
    @property
    def keys(self) -> Keys: ...
    @property
    def number(self) -> int: ...
    @property
    def looks_again(self) -> bool: ...
    @property
    def fetched(self) -> Any: ...
    @property
    def fault(self) -> Any: ...
    @property
    def given_up(self) -> bool: ...
    order: npt.NDArray[np.int64] | None
    @property
    def settled(self) -> bool: ...
    def settle(self, fetched: object, fault: object) -> None: ...
    def wait(self, seconds: float | None) -> bool: ...

class Handed:
    def __call__(self) -> None: ...
    def drop(self) -> None: ...

#: The fetch of a call (None: others fetch all of its keys), where its keys stand (None: it has all), and others with
#: where theirs stand.
Asked = Callable[[Fetch | None, npt.NDArray[np.int64] | None, list[tuple[Fetch, npt.NDArray[np.int64]]]], _Result]

class Fetches:
    def __init__(self) -> None: ...
    def ask(self, table: FlightTable, keys: Keys, since: int, work: Asked[_Result]) -> _Result: ...
    def hand_over(self, fetch: Fetch, work: Callable[[Fetch], None]) -> Handed: ...
    def reset(self) -> None: ...
    @property
    def ended(self) -> int: ...
    def __len__(self) -> int: ...

class Pinned(Generic[_Object]):
    def __enter__(self) -> _Object: ...
    def __exit__(self, *error: object) -> None: ...

class Pins(Generic[_Object]):
    def __init__(self, first: _Object) -> None: ...
    def use(self, work: Callable[[_Object, *_Args], _Result], *args: *_Args) -> _Result: ...
    def pinned(self) -> Pinned[_Object]: ...
    def put(self, object: _Object, same: bool) -> int: ...
    def oldest(self) -> int: ...
    def reset(self) -> None: ...
    @property
    def now(self) -> _Object: ...
    @property
    def number(self) -> int: ...
    @property
    def calls(self) -> int: ...

class SharedHold:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...

class ExclusiveHold:
    def __enter__(self) -> bool: ...
    def __exit__(self, *error: object) -> None: ...

class SharedLock:
    def __init__(self) -> None: ...
    def shared(self) -> SharedHold: ...
    def alone(self, unless: Callable[[], bool] | None = None) -> ExclusiveHold: ...
    @property
    def is_sharing(self) -> bool: ...

class Tally:
    def __init__(self) -> None: ...
    def add(self, items: list[tuple[Any, tuple[int, ...]]]) -> None: ...
    def read(self) -> dict[Any, tuple[int, ...]]: ...

def lacking(
    keys: Keys, outcomes: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None, Keys]: ...
def distinct(keys: Keys) -> tuple[Keys, npt.NDArray[np.int64]]: ...
def serve(
    rows: Floats,
    sources: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int64],
    default_row: Floats,
    out: Floats,
) -> int: ...
def feature_structs(
    given: list[tuple[int, Keys | None, npt.NDArray[np.int64] | None, Floats | None, bool]],
    default_rows: list[Floats | None],
    rows: int,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[npt.NDArray[Any]]]: ...

class studies:
    """A module: what the cache is measured against; nothing of it serves. All of it is for one thread."""

    @staticmethod
    def belady(keys: Keys, rows: int, hits: npt.NDArray[np.bool_] | None = None) -> int: ...

    class ExactCache:
        """A fully associative cache of `rows` rows, one number each, every policy in its exact form."""

        def __init__(
            self,
            rows: int,
            policy: str = "lru",
            *,
            beta: float = 0.1,
            r: float = 3.0,
            interval: float = 86400.0,
            seed: int = 0,
        ) -> None: ...
        def lookup(self, keys: Keys, values: Floats, found: npt.NDArray[np.bool_]) -> int: ...
        def write(self, keys: Keys, values: Floats, scores: Floats | None = None) -> None: ...
        def replay(self, keys: Keys, hits: npt.NDArray[np.bool_] | None = None) -> int: ...
        def feedback(self, keys: Keys, positive: npt.NDArray[np.bool_]) -> int: ...
        def scores(self, keys: Keys) -> npt.NDArray[np.float64]: ...
        def set_time(self, now: float) -> None: ...
        def __len__(self) -> int: ...
        @property
        def capacity_rows(self) -> int: ...
