"""A bundle's graph against its own weights in float64, on rows that export did not see."""

from __future__ import annotations

from typing import Any

from pepnet_infer.assemble import Assembler
from pepnet_infer.bundle import Bundle
from pepnet_infer.export.network import build_network, load_dense
from pepnet_infer.export.parity import ROWS, Run, compare, float64_run, score
from pepnet_infer.export.rows import random_features
from pepnet_infer.golden import normal_inputs
from pepnet_infer.store.mmap import MmapStore
from pepnet_infer.store.table_file import open_table


def recheck(bundle: Bundle, run: Run, seed: int) -> dict[str, Any]:
    """Returns set of rows → figures, as `parity.measure` does for a stage. Raises BundleError when a score is off."""
    network = build_network(bundle.config, len(bundle.tasks))
    load_dense(network, bundle.dense())
    reference = float64_run(network)
    keys = {name: open_table(path).keys for name, path in bundle.table_paths.items()}
    features = random_features(bundle.schema, keys, ROWS, seed)
    sets = {
        "normal": normal_inputs(bundle.config.inputs, ROWS, seed),
        "schema": Assembler(bundle.schema, MmapStore(bundle.table_paths)).inputs(features),
    }
    report = {}
    for name, inputs in sets.items():
        where = f"{bundle.onnx_path} against dense.safetensors: {name} rows"
        scores = score(run, inputs, len(bundle.tasks), where)
        report[name] = compare(scores, reference(inputs), bundle.tasks, where).to_json()
    return report
