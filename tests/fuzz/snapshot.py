"""Snapshots of a cache: header, blocks, records and trailer, summed again after each change."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from fuzz.corpus import ROWS, SCHEMA, batch
from fuzz.mutations import FLOATS, NUMBERS, change_array, change_bytes
from fuzz.target import Outcome, Target, check_scores, shown
from pepnet_infer import _kernels
from pepnet_infer.backends.create import create_backend
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.engine import Engine
from pepnet_infer.errors import StoreError
from pepnet_infer.rows.cache import snapshot, snapshot_file
from pepnet_infer.rows.cache.cached_rows import CachedRows
from pepnet_infer.rows.cache.open_bundle_rows import open_rows
from pepnet_infer.rows.gset import Gset

_HEADER, _BLOCK, _TRAILER, _CRC = "<8sII8s8sd", "<4sIIIIIQ", "<4sIQQI", "<I"
_INTS = [number for number in NUMBERS if isinstance(number, int)]


@dataclass
class File:
    """A snapshot of rows of a width, and whether what is in the cache has to stay as it was."""

    dim: int
    data: bytes
    how: str = ""


class SnapshotTarget(Target[File]):
    """Loads a snapshot into an engine's cache, and scores with what is there then."""

    def __init__(self, corpus: Path, scratch: Path) -> None:
        super().__init__(corpus, scratch)
        self._base = {int(path.name): path.read_bytes() for path in (corpus / "snapshots").iterdir()}
        self._bundle = Bundle.open(corpus / "bundle")
        self._backend = create_backend(self._bundle, "native", threads=1)
        self._batch = batch()
        self._path = scratch / "snapshot"

    def make(self, random: Random) -> File:
        """Returns a file with one to three changes, mostly with sums that fit."""
        dim = random.choice(list(self._base))
        data = self._base[dim]
        if random.random() < 0.15:
            return File(dim, change_bytes(random, data), "bytes")
        parts = _Parts(data)
        how = []
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            how.append(parts.change(random, dim))
        data = parts.join(random)
        return File(dim, change_bytes(random, data) if random.random() < 0.05 else data, ", ".join(how))

    def show(self, mutant: File) -> str:
        """Returns the file."""
        return f"rows of {mutant.dim}: {mutant.how}\n{shown(mutant.data)}"

    def run(self, mutant: File) -> Outcome:
        """Loads it into a cache of its own, then into an engine's, and scores."""
        self._path.write_bytes(mutant.data)
        alone = _kernels.RowCache(mutant.dim, 1 << 17)
        before = alone.stats()
        try:
            snapshot.load(alone, self._path, Gset())
        except StoreError:
            if alone.stats() != before:
                raise AssertionError("a snapshot was refused, and the cache is another one now") from None
            raise
        rows = open_rows(self._bundle, "default", None)
        assert isinstance(rows, CachedRows)
        core = rows.caches[mutant.dim].core
        with Engine(self._bundle, rows, self._backend) as engine:
            snapshot.load(core, self._path)
            check_scores(engine.score(self._batch), ROWS, len(SCHEMA.tasks))
        snapshot.save(core, self.scratch / "again")
        snapshot.load(alone, self.scratch / "again")
        return "accepted"


class _Parts:
    """The pieces of a snapshot, as lists of their fields."""

    def __init__(self, data: bytes) -> None:
        at = struct.calcsize(_HEADER)
        self.header = list(struct.unpack_from(_HEADER, data))
        at += 4
        self.blocks: list[tuple[list[int | bytes], bytes]] = []
        while data[at : at + 4] == b"PART":
            head = list(struct.unpack_from(_BLOCK, data, at))
            begin = at + struct.calcsize(_BLOCK) + 4
            at = begin + head[-1]
            self.blocks.append((head, data[begin:at]))
        self.trailer = list(struct.unpack_from(_TRAILER, data, at))

    def change(self, random: Random, dim: int) -> str:
        """Changes one piece, and says which."""
        how = random.random()
        if how < 0.15:
            place = random.randrange(1, 6)
            self.header[place] = (
                random.choice(FLOATS)
                if place == 5
                else random.choice((b"float32", b"float16", b"bfloat16", b"int8", b"lru", b"gset", b"\xff" * 8))
                if place > 2
                else random.choice(_INTS) % 2**32
            )
            return f"header {place}"
        if how < 0.25:
            place = random.randrange(1, 4)
            self.trailer[place] = random.choice(_INTS) % 2 ** (32 if place == 1 else 64)
            return f"trailer {place}"
        number = random.randrange(len(self.blocks))
        head, records = self.blocks[number]
        if how < 0.4:
            place = random.randrange(1, 7)
            head[place] = random.choice(_INTS) % 2 ** (64 if place == 6 else 32)
            return f"block {number}, {place}"
        if how < 0.5:
            if random.random() < 0.5:
                self.blocks.insert(number, (list(head), records))
                return f"block {number} twice"
            del self.blocks[number]
            self.blocks = self.blocks or [(head, records)]
            return f"without block {number}"
        values = np.frombuffer(records, snapshot_file.record_type("float32", dim)).copy()
        name = random.choice(values.dtype.names or ())
        values[name] = change_array(random, values[name])
        if random.random() < 0.2:
            values = values[: random.randrange(len(values) + 1)]
            head[5], head[6] = len(values), values.nbytes
            head[4] = random.choice((head[4], len(values)))
        self.blocks[number] = (head, values.tobytes())
        return f"{name} in block {number}"

    def join(self, random: Random) -> bytes:
        """Returns the file, its blocks numbered and its sums right, for the most part."""
        numbered = random.random() < 0.8
        magic, *rest = self.header
        header = struct.pack(_HEADER, magic, *rest)
        data = header + struct.pack(_CRC, zlib.crc32(header))
        entries = 0
        for number, (head, records) in enumerate(self.blocks):
            packed = struct.pack(_BLOCK, *([head[0], number, *head[2:]] if numbered else head))
            data += packed + struct.pack(_CRC, zlib.crc32(records, zlib.crc32(packed))) + records
            entries += int(head[5])
        if numbered:
            self.trailer[1:3] = [len(self.blocks), entries % 2**64]
        trailer = struct.pack(_TRAILER, *self.trailer[:4], zlib.crc32(data))
        return data + trailer + struct.pack(_CRC, zlib.crc32(trailer))
