"""A trainer as a publisher sees it: rows by id that change and go, and what the log makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.table_file import open_table
from pepnet_infer.export.publish.publisher import Publisher
from pepnet_infer.sync.delta import open_delta
from pepnet_infer.sync.logs.directory import DirectoryLog

Rows = dict[str, dict[int, np.ndarray]]
_ID = (1 << 48) - 1


class Trained:
    """A publisher, and the rows that its trainer has by table and id."""

    def __init__(self, log: DirectoryLog, bundle: Path, state: Path | None, **options: Any) -> None:
        self.log, self.path, self.state, self.options = log, bundle, state, options
        self.now, self.random = 10_000.0, np.random.default_rng(5)
        self.bundle = Bundle.open(bundle)
        self.rows: Rows = self.base()
        self.start()

    def base(self) -> Rows:
        files = {name: open_table(path) for name, path in self.bundle.table_paths.items()}
        return {n: {int(k) & _ID: r.copy() for k, r in zip(f.keys, f.rows, strict=True)} for n, f in files.items()}

    def start(self) -> None:
        self.publisher = Publisher(self.log, self.path, self.state, clock=lambda: self.now, **self.options)

    def train(self, ids: list[int], table: str = "user") -> None:
        dim = self.bundle.schema.table_by_name[table].dim
        for i in ids:
            self.rows[table][i] = self.random.standard_normal(dim).astype(np.float32)
        self.publisher.touch(table, np.array(ids))

    def delete(self, ids: list[int], table: str = "user") -> None:
        for i in ids:
            self.rows[table].pop(i, None)
        self.publisher.delete(table, np.array(ids))

    def read(self, table: str, keys: np.ndarray) -> np.ndarray:
        return np.array([self.rows[table][int(k) & _ID] for k in keys], np.float32)

    def publish(self, **more: Any) -> Any:
        return self.publisher.publish(self.read, **more)

    def replayed(self) -> Rows:
        """What the log leads to: each delta on the version before it, and none of them refused."""
        rows, version = self.base(), self.bundle.model_version
        for entry in self.log.read("", most=10_000):
            delta = open_delta(entry.path, self.bundle.schema, self.bundle.network)
            assert delta.head.base_version == version
            version = delta.head.model_version
            for name, part in delta.rows.items():
                for key, row, dead in zip(part.keys, part.rows, ~part.found, strict=True):
                    rows[name].pop(int(key) & _ID, None) if dead else rows[name].update({int(key) & _ID: row})
        return rows

    def assert_replayed(self) -> None:
        for name, found in self.replayed().items():
            assert set(found) == set(self.rows[name]), name
            assert all(np.array_equal(row, self.rows[name][i]) for i, row in found.items()), name
