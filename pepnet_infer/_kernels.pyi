"""The compiled extension. Arrays are checked, never converted; the GIL is released around the work.

A wrong dtype or byte order is a TypeError, a wrong shape or value a ValueError, each naming the argument.
"""

from typing import Literal, TypedDict

import numpy as np
import numpy.typing as npt

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

class KeyIndex:
    def __init__(self, keys: npt.NDArray[np.uint64]) -> None: ...
    def find(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]: ...
    def __len__(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...

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
