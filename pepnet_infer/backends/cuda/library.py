"""libpepnet_cuda through ctypes: loaded when somebody asks for it, so that a machine without it never notices."""

from __future__ import annotations

import ctypes
import json
import os
import weakref
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_char_p, c_float, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import BackendError
from pepnet_infer.process import forks
from pepnet_infer.schema.network_config import ModelConfig

#: Another library than the one beside the package: one that was built by hand.
VARIABLE = "PEPNET_CUDA_LIBRARY"
_ABI = 3
_ANSWER_BYTES = 1 << 16
#: How much of a product a block makes: kernels/cuda/shape.h.
TILES = ("few", "middle", "many", "wide")

Array = npt.NDArray[np.float32]


class _Config(ctypes.Structure):
    _fields_ = (
        *((name, c_int64) for name in ("general", "domain", "prior", "experts", "tasks", "gate_hidden")),
        ("layers", POINTER(c_int64)),
        ("layer_count", c_int64),
        ("towers", POINTER(c_int64)),
        ("tower_count", c_int64),
        *(
            (name, c_int32)
            for name in ("by_task", "input_gates", "group_gates", "epnet_general", "use_epnet", "use_ppnet")
        ),
        ("gamma", c_float),
    )


class _Tensor(ctypes.Structure):
    _fields_ = (("name", c_char_p), ("data", c_void_p), ("shape", POINTER(c_int64)), ("ndim", c_int64))


class _Call(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("general", "domain", "prior", "scores")),
        ("rows", c_int64),
        ("on_device", c_int32),
        ("stream", c_void_p),
    )


class CudaModel:
    """A model's weights on a device. Any thread may call `run`."""

    def __init__(self, library: CudaLibrary, handle: int, tasks: int) -> None:
        self.cuda, self.handle, self.tasks = library, handle, tasks
        self._free = weakref.finalize(self, library.free, handle)
        forks.register(forks.Stage.BACKENDS, child=self._reset_after_fork)

    def _reset_after_fork(self) -> None:
        self._free.detach()  # the parent's memory

    def run(self, general: Array, domain: Array, prior: Array) -> Array:
        """Returns scores float32 [B, T] of C-contiguous float32 [B, ·]. Raises BackendError when the GPU fails."""
        scores = np.empty((len(general), self.tasks), np.float32)
        self.cuda.run(self.handle, (general, domain, prior, scores))
        return scores

    def run_at(self, general: int, domain: int, prior: int, scores: int, rows: int, stream: int) -> None:
        """Puts a call into a CUDA stream (0: the default one) and returns at once. All are addresses on the device.

        float32, C-contiguous: general, domain, prior [rows, ·], scores [rows, T]. Raises BackendError.
        """
        self.cuda.call(self.handle, _Call(general, domain, prior, scores, rows, 1, stream))

    def facts(self) -> dict[str, Any]:
        """Returns weight_bytes, of each product name, launch, flops_a_row and weight_bytes, and tiles.

        tiles: by bucket of rows, of each launch of products its tile, and the microseconds of all that were tried.
        """
        return self.cuda.facts(self.handle)


class _Lost:
    """In the place of the library's functions, in a child forked from a process that uses CUDA."""

    def __getattr__(self, name: str) -> Any:
        raise BackendError(
            "backend: cuda: a GPU cannot be used in a child forked from a process that uses it: load the engine in the "
            "child, and start child processes with spawn or forkserver"
        )


#: What stands for functions of the library in a forked child.
LOST: Any = _Lost()


class CudaLibrary:
    """The library at `path`. Raises BackendError when it cannot be loaded, or is of another version."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            library = ctypes.CDLL(str(path))
            abi = int(library.pepnet_cuda_abi())
        except (OSError, AttributeError) as error:
            raise BackendError(f"backend: cuda: {path} cannot be loaded: {error}") from error
        if abi != _ABI:
            raise BackendError(f"backend: cuda: {path}: expected interface {_ABI}, got {abi}")
        #: its functions: those of other files are declared there
        self.calls: Any = library
        self._library: Any = library
        forks.register(forks.Stage.BACKENDS, child=self._lose)
        library.pepnet_cuda_error.restype = c_char_p
        library.pepnet_cuda_model.restype = c_void_p
        library.pepnet_cuda_model.argtypes = [POINTER(_Config), POINTER(_Tensor), c_int64, *[c_int32] * 4]
        library.pepnet_cuda_free.argtypes = [c_void_p]
        library.pepnet_cuda_free.restype = None
        library.pepnet_cuda_run.argtypes = [c_void_p, POINTER(_Call)]
        library.pepnet_cuda_device.argtypes = [c_int32, c_char_p, c_int64]
        library.pepnet_cuda_device.restype = c_int64
        library.pepnet_cuda_facts.argtypes = [c_void_p, c_char_p, c_int64]
        library.pepnet_cuda_facts.restype = c_int64

    def _lose(self) -> None:
        self.calls = self._library = LOST

    @property
    def emulated(self) -> bool:
        """Whether it runs on the CPU, as in tests: no driver is asked then."""
        return bool(self._library.pepnet_cuda_emulated())

    def devices(self) -> int:
        """Returns how many GPUs there are. Raises BackendError when CUDA does not start."""
        count = int(self._library.pepnet_cuda_devices())
        if count < 0:
            raise BackendError(f"backend: {self.error()}")
        return count

    def device(self, number: int) -> dict[str, Any]:
        """Returns name, capability, multiprocessors and memory_bytes of a GPU. Raises BackendError."""
        return self.answer(self._library.pepnet_cuda_device, c_int32(number))

    def model(
        self,
        config: ModelConfig,
        tasks: int,
        tensors: Mapping[str, npt.NDArray[Any]],
        bf16: bool,
        device: int,
        graphs: bool,
        tile: str | None = None,
    ) -> CudaModel:
        """Packs float32 `tensors` onto a device, and measures which tiles are the fastest there, or takes `tile`.

        Raises ValueError for what does not fit the config, BackendError.
        """
        given = _config_of(config, tasks)
        arrays = {name: np.require(array, np.float32, ("C", "A")) for name, array in tensors.items()}
        listed = (_Tensor * len(arrays))(
            *(_Tensor(name.encode(), a.ctypes.data, _numbers(a.shape), a.ndim) for name, a in arrays.items())
        )
        number = -1 if tile is None else TILES.index(tile)
        handle = self._library.pepnet_cuda_model(given, listed, len(arrays), bf16, device, graphs, number)
        if not handle:
            error = self.error()
            raise BackendError(f"backend: {error}") if error.startswith("cuda:") else ValueError(error)
        return CudaModel(self, handle, tasks)

    def run(self, handle: int, arrays: Sequence[Array]) -> None:
        """Scores general, domain, prior → scores; see `CudaModel.run`."""
        self.call(handle, _Call(*(array.ctypes.data for array in arrays), len(arrays[0]), 0, None))

    def call(self, handle: int, call: _Call) -> None:
        """Scores what `call` points to. Raises BackendError."""
        if self._library.pepnet_cuda_run(handle, call) != 0:
            raise BackendError(f"backend: {self.error()}")

    def facts(self, handle: int) -> dict[str, Any]:
        """See `CudaModel.facts`."""
        return self.answer(self._library.pepnet_cuda_facts, c_void_p(handle))

    def free(self, handle: int) -> None:
        """Lets go of a model."""
        self._library.pepnet_cuda_free(handle)

    def answer(self, function: Any, argument: object) -> dict[str, Any]:
        """Returns what a function writes as JSON. Raises BackendError."""
        text = ctypes.create_string_buffer(_ANSWER_BYTES)
        length = int(function(argument, text, len(text)))
        if not 0 <= length < len(text):
            raise BackendError(f"backend: {self.error() or 'cuda: an answer that is too long'}")
        answer: dict[str, Any] = json.loads(text.value)
        return answer

    def error(self) -> str:
        """Returns what the last call of this thread that failed said."""
        return str(self._library.pepnet_cuda_error().decode("utf-8", "replace"))


@cache
def open_library(path: Path) -> CudaLibrary:
    """Returns the library at `path`, loaded once. Raises BackendError."""
    return CudaLibrary(path)


def library_path() -> Path | None:
    """Returns where the library is, None where this build of the package has none."""
    given = os.environ.get(VARIABLE)
    path = Path(given) if given else Path(__file__).parents[2] / "libpepnet_cuda.so"
    return path if given or path.is_file() else None


def _numbers(values: Sequence[int]) -> Any:
    return (c_int64 * max(1, len(values)))(*values)


def _config_of(config: ModelConfig, tasks: int) -> _Config:
    widths = config.inputs
    hidden = -1 if config.gate_hidden is None else config.gate_hidden
    return _Config(
        widths.general,
        widths.domain,
        widths.prior,
        config.experts,
        tasks,
        hidden,
        _numbers(config.layers),
        len(config.layers),
        _numbers(config.towers),
        len(config.towers),
        config.backbone == "towers",
        config.gate_position == "input",
        config.gate_scope == "group",
        config.epnet_general,
        config.use_epnet,
        config.use_ppnet,
        config.gamma,
    )
