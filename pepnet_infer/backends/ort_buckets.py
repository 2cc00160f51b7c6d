"""ONNX Runtime on a device: inputs and scores at addresses that stay, and a CUDA graph, for each bucket of rows."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.process import forks

#: Batches run with as many rows as the smallest of these that holds them, larger ones in pieces of the largest.
BUCKETS = (1, 8, 32, 64, 128, 256, 512, 1024, 2048)

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Bucket:
    host: dict[str, Array]  # [bucket, ·]: what was there before stands below the rows of a call
    device: dict[str, Any]
    scores: Any
    binding: Any
    options: Any


class BucketSession:
    """A session whose memory is on a device. One call at a time; others wait for it."""

    def __init__(self, ort: Any, session: Any, device: tuple[str, int], graphs: bool) -> None:
        """device: ONNX Runtime's word for its kind, and its number. graphs: one is captured for each bucket."""
        self._ort, self._session, self._device, self._graphs = ort, session, device, graphs
        self._widths: dict[str, int] = {node.name: node.shape[1] for node in session.get_inputs()}
        (scores,) = session.get_outputs()
        self._output, self._tasks = scores.name, scores.shape[1]
        self._lock = threading.Lock()
        self._buckets: dict[int, _Bucket] = {}
        forks.register(forks.Stage.BACKENDS, child=self._reset_after_fork)

    def run(self, inputs: Mapping[str, Array], rows: int) -> Array:
        """Returns scores float32 [rows, T] of inputs float32 [rows, ·]."""
        out = np.empty((rows, self._tasks), np.float32)
        with self._lock:
            for begin in range(0, rows, BUCKETS[-1]):
                end = min(begin + BUCKETS[-1], rows)
                out[begin:end] = self._piece({name: array[begin:end] for name, array in inputs.items()}, end - begin)
        return out

    def _reset_after_fork(self) -> None:
        # What is on the device is the parent's: to let go of it here would be a call into its driver.
        forks.leak(self._session)
        forks.leak(self._buckets)
        self._lock = threading.Lock()

    def _piece(self, inputs: Mapping[str, Array], rows: int) -> Array:
        bucket = self._bucket(next(size for size in BUCKETS if size >= rows))
        for name, array in inputs.items():
            bucket.host[name][:rows] = array
            bucket.device[name].update_inplace(bucket.host[name])
        self._session.run_with_iobinding(bucket.binding, bucket.options)
        bucket.binding.synchronize_outputs()
        scores: Array = bucket.scores.numpy()[:rows]
        return scores

    def _bucket(self, size: int) -> _Bucket:
        made = self._buckets.get(size)
        if made is None:
            host = {name: np.zeros((size, width), np.float32) for name, width in self._widths.items()}
            value = self._ort.OrtValue
            device = {name: value.ortvalue_from_numpy(array, *self._device) for name, array in host.items()}
            scores = value.ortvalue_from_shape_and_type([size, self._tasks], np.float32, *self._device)
            binding = self._session.io_binding()
            for name, array in device.items():
                binding.bind_ortvalue_input(name, array)
            binding.bind_ortvalue_output(self._output, scores)
            options = self._ort.RunOptions()
            if self._graphs:  # the first run with an id is recorded, later ones are replayed
                options.add_run_config_entry("gpu_graph_id", str(size))
            made = self._buckets[size] = _Bucket(host, device, scores, binding, options)
        return made
