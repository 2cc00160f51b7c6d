"""The compiled extension. Arrays are checked, never converted; the GIL is released around the work.

A wrong dtype or byte order is a TypeError, a wrong shape or value a ValueError, each naming the argument. What each
part does is said in the header that kernels/python binds, or where it is bound. Attributes are read-only, but for
`Fetch.order`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, TypedDict, TypeVar, TypeVarTuple

import numpy as np
import numpy.typing as npt

_Result = TypeVar("_Result")
_Object = TypeVar("_Object")
_Args = TypeVarTuple("_Args")

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Outcomes = npt.NDArray[np.uint8]  # 0 miss, 1 row, 2 known not to exist
Rows = Floats | npt.NDArray[np.float16] | npt.NDArray[np.uint16]  # uint16: bits of bfloat16
Pooling = Literal["mean", "sum"]
Doubles = npt.NDArray[np.float64]

class CpuInfo(TypedDict):
    architecture: str
    vendor: str
    model: str
    present: list[str]
    usable: list[str]
    absent: list[str]
    caches: dict[str, int]

class CpuBudget(TypedDict):
    machine: int
    affinity: int
    quota: float | None
    quota_source: str
    threads: int

def build_info() -> dict[str, str]: ...  # compiler, baseline
def cpu_info() -> CpuInfo: ...
def cpu_budget(root: str = "") -> CpuBudget: ...

class NumberColumns:
    def __init__(
        self, id_columns: int, uses: Sequence[tuple[int, int]], dense: Sequence[tuple[bool, tuple[float, float]]]
    ) -> None: ...
    def read(
        self, ids: list[npt.NDArray[Any] | None], dense: list[npt.NDArray[Any] | None], rows: int
    ) -> tuple[list[Keys], list[Floats], list[int], list[int]]: ...

def numpy_inside(values: object) -> tuple[bool, bool]: ...
def signed_log1p(values: Doubles) -> Doubles: ...

class KeyIndex:
    def __init__(self, keys: Keys) -> None: ...
    def find(self, keys: Keys) -> Positions: ...
    def __len__(self) -> int: ...
    memory_bytes: int

class SideRows:
    def __init__(self, keys: Keys, ids: Keys, dense: Floats, bags: Sequence[tuple[Keys, Positions]]) -> None: ...
    def take(
        self, keys: Keys, ids: Sequence[int], dense: Sequence[int], bags: Sequence[int]
    ) -> tuple[Keys, Floats, list[tuple[Keys, Positions]]]: ...

def pool(rows: Rows, offsets: Positions, pooling: Pooling, out: Floats) -> None: ...

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
    changed_ns: int
    identity: tuple[int, int, int, int]  # device, inode, bytes, time of the last write in ns, as it was mapped

def all_as_mapped(maps: list[FileMap]) -> bool: ...

class Table:
    def __init__(self, keys: Keys, rows: Rows, default_row: Floats) -> None: ...
    def lookup(self, keys: Keys, out: Floats, found: Mask | None = None) -> int: ...
    def pool(self, keys: Keys, offsets: Positions, pooling: Pooling, out: Floats) -> int: ...
    def __len__(self) -> int: ...
    dim: int
    index: KeyIndex

IsaName = Literal["scalar", "avx2", "avx512", "amx"]
Precision = Literal["fp32", "bf16", "int8"]
Epilogue = Literal["linear", "relu", "gate", "gate_times", "relu_times", "relu_gated"]

class Choice(TypedDict):
    isa: IsaName
    how: str
    why: str

class Isa(Choice):
    precision: Precision
    built: bool
    usable: bool

def isas() -> list[Isa]: ...
def choose(precision: str, isa: str = "") -> Choice: ...

class PackedMatrix:
    bytes: int

def pack(w: Floats, b: Floats | None = None, precision: str = "fp32") -> PackedMatrix: ...

class Ops:
    isa: IsaName
    precision: Precision
    how: str
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
    ) -> Floats: ...

def ops(isa: str, precision: str = "fp32") -> Ops: ...
def rows_without_probability(scores: Floats) -> Mask | None: ...

class DenseInfo(Choice):
    precision: Precision
    activation: Literal["f32", "bf16", "u8"]
    packed_bytes: int
    wide_bytes: int
    block_rows: int

class Network:
    def __init__(
        self,
        widths: Sequence[int],
        operations: Sequence[Mapping[str, Any]],
        heads: Sequence[tuple[str, str]],
    ) -> None: ...
    scores: int
    def shapes(self) -> dict[str, tuple[int, int]]: ...
    def tensors(self) -> dict[str, tuple[int, ...]]: ...

def activations() -> list[str]: ...

class DenseModel:
    def __init__(
        self,
        tensors: Mapping[str, Floats],
        network: Network,
        isa: str = "auto",
        precision: str = "fp32",
        shared: Sequence[Sequence[tuple[int, int]]] = ((), (), ()),
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
        share: bool = False,
        wide: bool = False,
    ) -> Floats: ...
    def describe(self) -> DenseInfo: ...
    memory_bytes: int
    outside_rows: int
    run_ns: int
    shared: list[list[tuple[int, int]]]

CachePolicy = Literal["lru", "gset", "lfu", "sieve", "s3fifo"]

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
        gone: Outcomes | None = None,
        expires: Doubles | None = None,
    ) -> None: ...
    def find(self, keys: Keys) -> Positions: ...

#: (cache, overlay, default_row, keys, out, offsets, pooling, outcomes)
Job = tuple[RowCache, RowOverlay | None, Floats, Keys, Floats, Positions | None, Pooling, Outcomes]

def look_up(jobs: list[Job], counted: bool = True) -> list[tuple[int, int, int]]: ...

class EntryInfos(TypedDict):
    outcome: Outcomes
    tombstone: Mask
    high_priority: Mask
    scored: Mask
    version: Keys
    expires: Doubles
    score: Floats

class CachePart(EntryInfos):
    keys: Keys
    rows: Floats
    order: Keys

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
    def write(
        self,
        keys: Keys,
        rows: Floats,
        scores: Floats | None = None,
        versions: Keys | None = None,
        expires: Doubles | None = None,
        update: bool = False,
        results: Outcomes | None = None,  # 0 stale, 1 inserted, 2 replaced, 3 rejected
        restore: bool = False,
        earned: Mask | None = None,
        put: bool = False,
        known: bool = False,
    ) -> int: ...
    def forget(self, keys: Keys) -> int: ...
    def mark_absent(self, keys: Keys) -> None: ...
    def erase(self, keys: Keys, versions: Keys, expires: Doubles | None = None) -> int: ...
    def feedback(self, keys: Keys, positive: Mask) -> int: ...
    def peek(self, keys: Keys) -> EntryInfos: ...
    def replay(self, keys: Keys, hits: Mask | None = None) -> int: ...
    parts: int
    def part(self, index: int) -> CachePart: ...
    floor: int
    def raise_floor(self, version: int) -> None: ...
    def clear(self) -> None: ...
    def set_time(self, now: float) -> None: ...  # nan: the clock's again
    def step_wall_clock(self, seconds: float) -> None: ...  # for tests
    time: float  # Unix seconds
    def stats(self) -> dict[str, int]: ...  # the names of CacheStats
    dim: int
    dtype: str
    policy: CachePolicy
    capacity_rows: int
    memory_bytes: int

class FlightTable:
    def __init__(self) -> None: ...
    def land(self, keys: Keys, flight: int) -> Mask | None: ...  # None: all may be written
    def touch(self, keys: Keys) -> None: ...
    def __len__(self) -> int: ...

class Fetch:
    keys: Keys
    number: int
    looks_again: bool
    fetched: Any
    fault: Any
    given_up: bool
    order: Positions | None
    settled: bool
    def settle(self, fetched: object, fault: object) -> None: ...
    def wait(self, seconds: float | None) -> bool: ...

class Handed:
    def __call__(self) -> None: ...
    def drop(self) -> None: ...

#: The fetch of a call (None: others fetch all of its keys), where its keys stand (None: it has all), and others with
#: where theirs stand.
Asked = Callable[[Fetch | None, Positions | None, list[tuple[Fetch, Positions]]], _Result]

class Fetches:
    def __init__(self) -> None: ...
    def ask(self, table: FlightTable, keys: Keys, since: int, work: Asked[_Result]) -> _Result: ...
    def hand_over(self, fetch: Fetch, work: Callable[[Fetch], None]) -> Handed: ...
    def reset(self) -> None: ...
    ended: int
    def __len__(self) -> int: ...

class Pins(Generic[_Object]):
    def __init__(self, first: _Object) -> None: ...
    def use(self, work: Callable[[_Object, *_Args], _Result], *args: *_Args) -> _Result: ...
    def put(self, object: _Object, same: bool = False) -> int: ...
    def oldest(self) -> int: ...
    def reset(self) -> None: ...
    now: _Object
    number: int
    calls: int

class Hold:
    def __enter__(self) -> bool: ...
    def __exit__(self, *error: object) -> None: ...

class SharedLock:
    def __init__(self) -> None: ...
    def shared(self) -> Hold: ...
    def alone(self, unless: Callable[[], bool] | None = None) -> Hold: ...
    is_sharing: bool

class Tally:
    def __init__(self) -> None: ...
    def add(self, items: list[tuple[Any, tuple[int, ...]]]) -> None: ...
    def read(self) -> dict[Any, tuple[int, ...]]: ...

#: Positions of keys without a row, which of these the store is to be asked for (None: all), and the keys of these.
def lacking(keys: Keys, outcomes: Outcomes) -> tuple[Positions, Positions | None, Keys]: ...

#: The distinct keys in the order in which they first come, and which of them each key is.
def distinct(keys: Keys) -> tuple[Keys, Positions]: ...
def serve(rows: Floats, sources: Positions, positions: Positions, default_row: Floats, out: Floats) -> int: ...

class CudaLibrary:
    def __init__(self, path: str) -> None: ...
    emulated: bool  # runs on the CPU, as in tests: no driver is asked then
    devices: int
    def device(self, number: int) -> dict[str, Any]: ...  # name, capability, multiprocessors, memory_bytes

class CudaRows:
    def __init__(
        self, library: CudaLibrary, entries: Sequence[tuple[int, int]], by_score: bool, device: int
    ) -> None: ...
    def insert(
        self, keys: Keys, rows: Floats, found: Mask, high: Mask, scores: Floats, expires: Doubles, generation: int
    ) -> bool:
        """Puts what is known of distinct keys in, as asked for at a `generation`: a row, or that there is none.

        high: keys that never make room for others. Returns False when it may be of before by now.
        """

    def drop(self, width: int, keys: Keys) -> None: ...  # calls that begin after it ask the host
    def clear(self) -> None: ...
    def stats(self) -> dict[str, Any]: ...
    generation: int  # counts up whenever keys are dropped

class CudaFeatures:
    """What a batch has of each field: (field, keys, offsets, values, whether all rows share one)."""

    def __init__(
        self,
        given: list[tuple[int, Keys | None, Positions | None, Floats | None, bool]],
        default_rows: list[Floats | None],
        rows: int,
    ) -> None: ...
    counts: Positions  # keys or values of each field

class CudaWaiting:
    """Rows whose scores wait for what the device lacks, while a `with` is in it."""

    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...
    lacking: npt.NDArray[np.uint32]  # row · fields + field, ascending
    generation: int  # of the rows when they were asked
    def finish(self, at: npt.NDArray[np.uint32], begins: npt.NDArray[np.uint32], values: Floats) -> None: ...

class CudaModel:
    """A model's weights on a device. Any thread may call. Raises BackendError when the GPU fails."""

    def __init__(
        self,
        library: CudaLibrary,
        tensors: Mapping[str, Floats],
        network: Network,
        bf16: bool = False,
        device: int = 0,
        graphs: bool = True,
        tile: str | None = None,
    ) -> None: ...
    def run(self, general: Floats, domain: Floats, prior: Floats) -> Floats: ...
    def run_at(self, general: int, domain: int, prior: int, scores: int, rows: int, stream: int) -> None:
        """Puts a call into a CUDA stream (0: the default one) and returns at once. All are addresses on the device."""

    def facts(self) -> dict[str, Any]:
        """Returns weight_bytes, of each product name, launch, flops_a_row and weight_bytes, and tiles.

        tiles: by bucket of rows, of each launch of products its tile, and the microseconds of all that were tried.
        """

    def attach(self, rows: CudaRows, fields: Sequence[tuple[str, int, int, Sequence[tuple[str, int]]]]) -> None: ...
    def score(
        self, features: CudaFeatures, first: int, rows: int, scores: Floats, unknown: npt.NDArray[np.uint32]
    ) -> CudaWaiting | None: ...  # None: all scores are there

class studies:
    """A module: what the cache is measured against; nothing of it serves. All of it is for one thread."""

    @staticmethod
    def belady(keys: Keys, rows: int, hits: Mask | None = None) -> int: ...

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
        ) -> None: ...
        def lookup(self, keys: Keys, values: Floats, found: Mask) -> int: ...
        def write(self, keys: Keys, values: Floats, scores: Floats | None = None) -> None: ...
        def replay(self, keys: Keys, hits: Mask | None = None) -> int: ...
        def feedback(self, keys: Keys, positive: Mask) -> int: ...
        def scores(self, keys: Keys) -> Doubles: ...
        def set_time(self, now: float) -> None: ...
        def __len__(self) -> int: ...
        capacity_rows: int
