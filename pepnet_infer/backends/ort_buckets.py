"""ONNX Runtime on a device: inputs and scores at addresses that stay, and a CUDA graph, for each bucket of rows."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: Batches run with as many rows as the smallest of these that holds them, larger ones come in pieces.
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
    """A session whose memory is on a device. One call at a time; others wait for it.

    It has no fork handler: no child uses a device of its parent, see `OrtSession`.
    """

    def __init__(self, ort: Any, session: Any, device: tuple[str, int], graphs: bool) -> None:
        """device: ONNX Runtime's word for its kind, and its number. graphs: one is captured for each bucket."""
        self._ort, self._session, self._device, self._graphs = ort, session, device, graphs
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs
        self._lock = threading.Lock()
        self._buckets: dict[int, _Bucket] = {}

    def run(self, outputs: object, inputs: Mapping[str, Array]) -> list[Array]:
        """Returns the one output [rows, T] of inputs float32 [rows, ·], of at least one row and at most `BUCKETS[-1]`.

        outputs: their names, as a session of the CPU wants them.
        """
        rows = max(map(len, inputs.values()))
        with self._lock:
            bucket = self._bucket(next(size for size in BUCKETS if size >= rows))
            for name, array in inputs.items():
                bucket.host[name][:rows] = array
                bucket.device[name].update_inplace(bucket.host[name])
            self._session.run_with_iobinding(bucket.binding, bucket.options)
            bucket.binding.synchronize_outputs()
            return [bucket.scores.numpy()[:rows].copy()]

    def _bucket(self, size: int) -> _Bucket:
        made = self._buckets.get(size)
        if made is None:
            host = {node.name: np.zeros((size, node.shape[1]), np.float32) for node in self.get_inputs()}
            (output,) = self.get_outputs()
            value = self._ort.OrtValue
            device = {name: value.ortvalue_from_numpy(array, *self._device) for name, array in host.items()}
            scores = value.ortvalue_from_shape_and_type([size, output.shape[1]], np.float32, *self._device)
            binding = self._session.io_binding()
            for name, array in device.items():
                binding.bind_ortvalue_input(name, array)
            binding.bind_ortvalue_output(output.name, scores)
            options = self._ort.RunOptions()
            if self._graphs:  # the first run with an id is recorded, later ones are replayed
                options.add_run_config_entry("gpu_graph_id", str(size))
            made = self._buckets[size] = _Bucket(host, device, scores, binding, options)
        return made
