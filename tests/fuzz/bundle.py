"""Bundles: manifests, weights, tables, side tables, graphs and names, signed again after each change."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fuzz.corpus import ROWS, batch
from fuzz.directories import Directory, Tree, change_names, read_tree
from fuzz.mutations import change_bytes, change_json, change_message, change_tensors, dump_json, join_tensors, sign
from fuzz.target import Outcome, Target, check_scores
from pepnet_infer.engine import Engine
from pepnet_infer.errors import PepnetError
from pepnet_infer.network.network import Network
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.network_config import ModelConfig

MANIFEST, PARITY, ONNX, DENSE = "manifest.json", "parity.json", "dense.onnx", "dense.safetensors"
_MOST_WEIGHTS = 1 << 16  # of a network that is made anew for a changed config


class BundleTarget(Target[Tree]):
    """Opens a bundle with all checks, and scores with what passes them."""

    def __init__(self, corpus: Path, scratch: Path) -> None:
        super().__init__(corpus, scratch)
        self._base = read_tree(corpus / "bundle")
        self._directory = Directory(scratch / "bundle", self._base)
        self._batch = batch()
        self._tensors = [name for name in self._base if name.endswith(".safetensors")]

    def make(self, random: Random) -> Tree:
        """Returns one to three changes, most of them signed."""
        tree = Tree(dict(self._base))
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            self._change(random, tree)
        return tree

    def show(self, mutant: Tree) -> str:
        """Returns what was changed."""
        return mutant.show(self._base)

    def run(self, mutant: Tree) -> Outcome:
        """Loads and scores."""
        backend = "onnxruntime" if "graph" in mutant.how else "native"
        with self._directory.holding(mutant) as root, Engine.load(root, backend=backend, threads=1) as engine:
            check_scores(engine.score(self._batch), ROWS, len(engine.tasks))
        return "accepted"

    def _change(self, random: Random, tree: Tree) -> None:
        files, how = tree.files, random.random()
        if MANIFEST not in files:
            return
        if how < 0.2:
            name = random.choice(self._tensors)
            tree.how += f" tensors of {name}"
            files[name] = change_tensors(random, self._base[name])
            self._sign(files)
        elif how < 0.3:
            tree.how += " schema"
            self._edit(random, files, "schema")
        elif how < 0.4:
            tree.how += " config"
            self._edit(random, files, "config")
        elif how < 0.6:
            tree.how += " manifest"
            files[MANIFEST] = dump_json(change_json(random, self._manifest(files)))
        elif how < 0.7:
            tree.how += " parity"
            files[PARITY] = dump_json(change_json(random, json.loads(self._base[PARITY])))
            self._sign(files)
        elif how < 0.75:
            tree.how += " graph"
            files[ONNX] = self._graph(random)
            self._sign(files)
        elif how < 0.88:
            name = random.choice(list(self._base))
            tree.how += f" bytes of {name}"
            files[name] = change_bytes(random, self._base[name])
            if name != MANIFEST and random.random() < 0.9:
                self._sign(files)
        else:
            change_names(random, tree)
            if random.random() < 0.5 and MANIFEST in files:
                self._sign(files)

    def _manifest(self, files: dict[str, bytes]) -> dict[str, Any]:
        """Returns the manifest as it is, or as it was where it is no JSON any more."""
        try:
            manifest = json.loads(files[MANIFEST])
        except (ValueError, RecursionError):
            manifest = None
        return manifest if isinstance(manifest, dict) else json.loads(self._base[MANIFEST])

    def _sign(self, files: dict[str, bytes]) -> None:
        files[MANIFEST] = dump_json(self._manifest(files))
        sign(files)

    def _edit(self, random: Random, files: dict[str, bytes], part: str) -> None:
        """Changes schema or config, and makes everything else fit it, as far as it means anything."""
        manifest = self._manifest(files)
        if part not in manifest:
            return
        manifest[part] = change_json(random, manifest[part])
        # Through text and back: what is `Raw` is what it says only then.
        try:
            document = json.loads(dump_json(manifest))
            schema = FeatureSchema.from_json(document["schema"])
            document |= {"schema_hash": schema.hash, "tasks": list(schema.tasks), "domains": list(schema.domains)}
            if part == "schema" or random.random() < 0.5:
                document["config"]["inputs"] = dict(schema.widths)
            self._weigh(random, files, ModelConfig.from_json(document["config"]), len(schema.tasks))
            files[MANIFEST] = dump_json(document)
            sign(files)
        except (PepnetError, ValueError, TypeError, KeyError, RecursionError, AttributeError, OverflowError):
            files[MANIFEST] = dump_json(manifest)

    def _weigh(self, random: Random, files: dict[str, bytes], config: ModelConfig, tasks: int) -> None:
        """Writes weights of the shapes that a config asks for, where they are others and not too many."""
        if config.model != "pepnet":
            return
        shapes = Network.derived(config, tasks).tensors
        count = sum(int(np.prod(shape, dtype=object)) for shape in shapes.values())
        (size,) = struct.unpack_from("<Q", files[DENSE])
        before = json.loads(files[DENSE][8 : 8 + size])
        if count > _MOST_WEIGHTS or {name: tuple(entry["shape"]) for name, entry in before.items()} == shapes:
            return
        header, at = {}, 0
        for name, shape in shapes.items():
            end = at + 4 * int(np.prod(shape, dtype=object))
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, end]}
            at = end
        files[DENSE] = join_tensors(
            header, (np.random.default_rng(random.randrange(99)).random(count) - 0.5).astype("<f4").tobytes()
        )

    def _graph(self, random: Random) -> bytes:
        import onnx

        if random.random() < 0.3:
            return change_bytes(random, self._base[ONNX])
        model = onnx.load_from_string(self._base[ONNX])
        for _ in range(random.choice((1, 1, 2))):
            change_message(random, model)
        data: bytes = model.SerializeToString()
        return data
