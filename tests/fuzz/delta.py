"""Deltas in a directory, and the directory that is the log."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fuzz.bundle import MANIFEST
from fuzz.corpus import NEXT
from fuzz.directories import Directory, Tree, change_names, read_tree
from fuzz.following import OneDelta, follow
from fuzz.mutations import NUMBERS, TEXTS, change_bytes, change_json, change_tensors, dump_json, sign
from fuzz.target import Outcome, Target
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.sync.delta import open_delta
from pepnet_infer.sync.logs.directory import DirectoryLog

_POSITION = "00000000000000000007"


def change_delta(random: Random, base: dict[str, bytes], tree: Tree) -> None:
    """Changes what a delta's directory holds, mostly with sizes and hashes that fit."""
    files, how = tree.files, random.random()
    if MANIFEST not in files:
        return
    if how < 0.45:
        name = random.choice([name for name in base if name.endswith(".safetensors")])
        tree.how += f" tensors of {name}"
        files[name] = change_tensors(random, base[name])
        _sign(files, base)
    elif how < 0.7:
        tree.how += " manifest"
        files[MANIFEST] = dump_json(change_json(random, json.loads(base[MANIFEST])))
    elif how < 0.85:
        name = random.choice(list(base))
        tree.how += f" bytes of {name}"
        files[name] = change_bytes(random, base[name])
        if name != MANIFEST and random.random() < 0.9:
            _sign(files, base)
    else:
        change_names(random, tree)
        if random.random() < 0.5:
            _sign(files, base)


def _sign(files: dict[str, bytes], base: dict[str, bytes]) -> None:
    files[MANIFEST] = base[MANIFEST]
    sign(files)


@dataclass
class Log:
    """A delta, and what lies around it in the directory of a log; None: the delta alone is opened."""

    delta: Tree
    around: dict[str, bytes] | None = None
    strange: list[tuple[str, str]] = field(default_factory=list)


class DeltaTarget(Target[Log]):
    """Opens a delta as followers do; applies and scores with what passes. Every tenth is read out of a log."""

    def __init__(self, corpus: Path, scratch: Path) -> None:
        super().__init__(corpus, scratch)
        self._base = read_tree(corpus / "delta")
        self._directory = Directory(scratch / "delta", self._base)
        self._empty = read_tree(corpus / "log")
        self._log = Directory(scratch / "log", {})
        self._whole = read_tree(corpus / "bundle")
        self._bundle = Bundle.open(corpus / "bundle")

    def make(self, random: Random) -> Log:
        """Returns one to three changes of a delta, or of a log around it."""
        mutant = Log(Tree(dict(self._base)))
        if random.random() < 0.1:
            self._surround(random, mutant)
        if mutant.around is None or random.random() < 0.7:
            for _ in range(random.choice((1, 1, 1, 2, 3))):
                change_delta(random, self._base, mutant.delta)
        return mutant

    def show(self, mutant: Log) -> str:
        """Returns what was changed."""
        return f"{mutant.delta.show(self._base)}\n{mutant.around!r:.3000}\n{mutant.strange}"

    def run(self, mutant: Log) -> Outcome:
        """Opens, applies, scores."""
        if mutant.around is None:
            with self._directory.holding(mutant.delta) as root:
                open_delta(root, self._bundle.schema, self._bundle.network)
                return follow(self._bundle, OneDelta(root))
        files = dict(mutant.around)
        files |= {f"deltas/{_POSITION}/{name}": data for name, data in mutant.delta.files.items()}
        strange = [(f"deltas/{_POSITION}/{name}", kind) for name, kind in mutant.delta.strange]
        with self._log.holding(Tree(files, [*mutant.strange, *strange])) as root:
            log = DirectoryLog(root)
            outcome = follow(self._bundle, log)
            for look in (log.progress, log.last_delta, log.last_bundle, lambda: log.trim(0)):
                try:
                    look()
                except self.refusals:
                    outcome = "refused"
            return outcome

    def _surround(self, random: Random, mutant: Log) -> None:
        progress = {"position": _POSITION, "model_version": 7, "at": 1e9}
        text = dump_json(change_json(random, progress)) if random.random() < 0.7 else dump_json(progress)
        if random.random() < 0.2:
            text = change_bytes(random, text)
        around = mutant.around = {"followers/other.json": text, **self._empty}
        if random.random() < 0.3:
            name = random.choice(list(self._empty))
            around[name] = change_bytes(random, around[name])
        if random.random() < 0.2:
            whole = dict(self._whole)
            whole[MANIFEST] = dump_json(change_json(random, json.loads(whole[MANIFEST]) | {"model_version": NEXT}))
            around |= {f"bundles/{_POSITION}/{name}": data for name, data in whole.items()}
        for folder in ("deltas", "bundles", "followers", "."):
            if random.random() < 0.3:
                number = random.choice([n for n in NUMBERS if isinstance(n, int) and 0 <= n < 10**20])
                names = (
                    f"{number:020d}",
                    f".{number:020d}",
                    *[text for text in TEXTS if text.isalnum() and len(text) < 99],
                )
                name = f"{folder}/{random.choice(names)}"
                if random.random() < 0.5:
                    around[name] = random.choice((b"", b"{}", self._base[MANIFEST]))
                else:
                    around[f"{name}/{MANIFEST}"] = dump_json(change_json(random, json.loads(self._base[MANIFEST])))
        if random.random() < 0.3:
            names = ("deltas", "bundles", "followers", "writer.lock", f"deltas/{_POSITION}", "followers/other.json")
            mutant.strange.append(
                (random.choice(names), random.choice(("fifo", "dangling link", "folder", "link away")))
            )
