"""Parquet files: damaged footers and pages, and whole files with columns of every type."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fuzz.arrow import REFUSALS, typed_column
from fuzz.corpus import batch
from fuzz.directories import STRANGE, Directory, Tree
from fuzz.mutations import change_bytes
from fuzz.target import Outcome, Target, WrongScore, shown
from pepnet_infer.engine import Engine
from pepnet_infer.parquet.run import score_parquet


@dataclass
class Input:
    """A file, what is in its place, and how it is scored."""

    tree: Tree
    columns: Any
    on_bad_row: Literal["raise", "null"]
    batch_rows: int


class ParquetTarget(Target[Input]):
    """Scores a file, and reads the scores back."""

    def __init__(self, corpus: Path, scratch: Path) -> None:
        super().__init__(corpus, scratch)
        self._table = pa.Table.from_pydict(batch())
        self._files = [
            _written(self._table, compression="none", use_dictionary=False),
            _written(self._table, compression="none"),
            _written(self._table, compression="snappy", data_page_version="2.0", row_group_size=3),
            _written(self._table, compression="zstd", store_schema=False),
            _written(pa.concat_tables([self._table] * 5), compression="none", row_group_size=8),
        ]
        self._engine = Engine.load(corpus / "bundle", backend="native", threads=1)
        self._directory = Directory(scratch / "in", {})

    def make(self, random: Random) -> Input:
        """Returns one file."""
        data, how, strange = random.choice(self._files), random.random(), []
        name = random.choice(
            ("a.parquet", "a.parquet", "a.parquet", "tab=home/a.parquet", "dt=01/a.parquet", "age=x/a.pq")
        )
        if how < 0.35:
            said = "bytes"
            for _ in range(random.choice((1, 1, 2, 4))):
                data = change_bytes(random, data)
        elif how < 0.7:  # the footer is where most of what can go wrong is said
            said = "footer"
            at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
            footer = change_bytes(random, data[at:-8])
            data = data[:at] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
        elif how < 0.95:
            column = random.choice(self._table.column_names)
            said, table = column, self._replaced(random, column)
            data = _written(table, compression="none") if table is not None else b""
        else:
            said, kind = "strange", random.choice(STRANGE)
            strange.append((name, kind))
        columns = random.choice((None, None, "all", ["user_id", "dt"], ["tab"]))
        tree = Tree({name: data}, strange, said)
        return Input(tree, columns, random.choice(("raise", "null")), random.choice((1, 3, 64, 65536)))

    def show(self, mutant: Input) -> str:
        """Returns the file and the options."""
        tree = mutant.tree
        options = f"columns={mutant.columns} on_bad_row={mutant.on_bad_row} batch_rows={mutant.batch_rows}"
        return "\n".join([tree.how, options, str(tree.strange), *(f"{n}: {shown(d)}" for n, d in tree.files.items())])

    def run(self, mutant: Input) -> Outcome:
        """Scores the folder."""
        out = self.scratch / "out"
        try:
            with self._directory.holding(mutant.tree) as root:
                options: dict[str, Any] = {"on_bad_row": mutant.on_bad_row, "batch_rows": mutant.batch_rows}
                score_parquet(self._engine, root, out, columns=mutant.columns, **options)
            for path in out.rglob("*.p*q*"):
                self._check(path)
        finally:
            shutil.rmtree(out, ignore_errors=True)
        return "accepted"

    def _check(self, path: Path) -> None:
        for task in self._engine.tasks:
            values = pq.read_table(path, columns=[f"score_{task}"], partitioning=None).column(0).drop_null().to_numpy()
            if not ((values >= 0) & (values <= 1)).all():
                raise WrongScore(f"expected numbers in [0, 1], got {values[~np.isfinite(values)][:3]}")

    def _replaced(self, random: Random, name: str) -> pa.Table | None:
        """Returns the table with another column of that name, twice, or without it; None where no file can hold it."""
        table, place = self._table, self._table.column_names.index(name)
        how = random.random()
        try:
            if how < 0.1:
                return table.remove_column(place)
            if how < 0.2:
                return table.append_column(name, table.column(name))
            if how < 0.25:
                return table.slice(0, 0)
            column = typed_column(random)
            if len(column) < table.num_rows:
                table = table.slice(0, len(column))
            return table.set_column(place, name, column.slice(0, table.num_rows))
        except REFUSALS:
            return None


def _written(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    try:
        pq.write_table(table, sink, **options)
    except REFUSALS:
        return b"PAR1"
    return sink.getvalue()
