"""Embedding rows in training: looked up, pooled and laid out as the runtime's assembler does, updated by AdaGrad."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from pepnet_infer.errors import SchemaError
from pepnet_infer.export.data.codes import CodedIds, Codes
from pepnet_infer.export.run_config import TrainConfig
from pepnet_infer.schema.feature_schema import INPUTS, FeatureSchema
from pepnet_infer.schema.ids import Keys

Rows = npt.NDArray[np.int64]


class _Group:
    """All tables of one dim in one matrix: per table its default row, then the rows of its known ids."""

    def __init__(self, dim: int, sizes: Mapping[str, int], config: TrainConfig, generator: torch.Generator) -> None:
        starts = np.concatenate([[0], np.cumsum([n + 1 for n in sizes.values()])])
        self.start = {name: int(s) for name, s in zip(sizes, starts[:-1], strict=True)}
        rows = int(starts[-1])
        self.weight = torch.randn(rows, dim, generator=generator) * config.init_std
        self.squares = torch.full((rows, dim), config.accumulator)
        self.changed = torch.zeros(rows, dtype=torch.bool)  # since `Embeddings.touched` was last asked
        self._seen = torch.zeros(rows, dtype=torch.bool)
        self._place = torch.zeros(rows, dtype=torch.int64)

    def touched(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the distinct values of `rows`, ascending, and each row's place among them.

        A mark per row of the matrix: linear, where torch.unique sorts.
        """
        self._seen[rows] = True
        distinct = self._seen.nonzero().squeeze(1)
        self._seen[distinct] = False
        self._place[distinct] = torch.arange(len(distinct))
        return distinct, self._place[rows]


class Embeddings:
    """The tables of a schema while they are trained.

    known: per table the codes with a row of their own (`CodedIds.known`); every other id of the data set uses, and
    trains, the default row. grows: so do all known codes, until `admit` gives them theirs.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        ids: CodedIds,
        dense: Mapping[str, npt.NDArray[np.float32]],
        known: Mapping[str, Codes],
        config: TrainConfig,
        seed: int,
        grows: bool = False,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.schema, self._ids, self.known, self._config = schema, ids, known, config
        self._dense = {name: torch.from_numpy(values) for name, values in dense.items()}
        self._groups: dict[int, _Group] = {}
        for dim in dict.fromkeys(t.dim for t in schema.tables):
            sizes = {t.name: len(known[t.name]) for t in schema.tables if t.dim == dim}
            self._groups[dim] = _Group(dim, sizes, config, generator)
        self._row_of: dict[str, Rows] = {}  # code → row of the group's matrix
        for name in known:
            start = self._group(name).start[name]
            self._row_of[name] = np.full(len(ids.keys[name]), start)
            if not grows:
                self._row_of[name][known[name]] = start + 1 + np.arange(len(known[name]))
        self._random = np.random.default_rng(seed)
        self._pending: list[tuple[_Group, torch.Tensor, torch.Tensor]] = []

    def _group(self, table: str) -> _Group:
        return self._groups[self.schema.table_by_name[table].dim]

    def admit(self, table: str, codes: Codes) -> None:
        """Gives known codes [n] that have none yet rows of their own. They begin as the default row is now."""
        group = self._group(table)
        start = group.start[table]
        rows = start + 1 + np.searchsorted(self.known[table], codes)
        group.weight[rows] = group.weight[start].clone()
        group.changed[rows] = True
        self._row_of[table][codes] = rows

    def inputs(self, batch: Rows, training: bool = False) -> dict[str, torch.Tensor]:
        """Returns general, domain and prior of rows `batch` [B], float32 [B, width], laid out by `schema.layout`.

        In training some ids are dropped to their default row, and `step` updates the rows that were read.
        """
        if training:
            self._pending.clear()
        values: dict[str, torch.Tensor] = {}
        for dim in self._groups:
            values.update(self._lookup(dim, batch, training))
        for name, column in self._dense.items():
            values[name] = column[batch].unsqueeze(1)
        inputs: dict[str, torch.Tensor] = {}
        for name in INPUTS:
            slots = [values[slot.field.name] for slot in self.schema.layout[name]]
            inputs[name] = torch.cat(slots, dim=1) if slots else torch.empty(len(batch), 0)
        return inputs

    def _lookup(self, dim: int, batch: Rows, training: bool) -> dict[str, torch.Tensor]:
        group = self._groups[dim]
        fields = [f for f in self.schema.fields if f.table is not None and self.schema.width(f) == dim]
        rows: list[Rows] = []
        offsets: dict[str, Rows] = {}
        for spec in fields:
            assert spec.table is not None
            if spec.kind == "bag":
                bag = self._ids.bags[spec.name].take(batch)
                codes, offsets[spec.name] = bag.codes, bag.offsets
            else:
                codes = self._ids.ids[spec.name][batch]
            found = self._row_of[spec.table][codes]
            if training and self._config.id_dropout:
                dropped = self._random.random(len(found), dtype=np.float32) < self._config.id_dropout
                found[dropped] = group.start[spec.table]
            rows.append(found)
        places = torch.from_numpy(np.concatenate(rows))
        weight = group.weight
        if training:
            distinct, places = group.touched(places)
            weight = weight[distinct].requires_grad_()
            self._pending.append((group, distinct, weight))
        values: dict[str, torch.Tensor] = {}
        for spec, part in zip(fields, torch.split(places, [len(r) for r in rows]), strict=True):
            if spec.kind == "bag":
                of = torch.from_numpy(offsets[spec.name])
                values[spec.name] = torch.nn.functional.embedding_bag(
                    part, weight, of, mode=spec.pooling, include_last_offset=True
                )
            else:
                values[spec.name] = torch.nn.functional.embedding(part, weight)
        return values

    @torch.no_grad()
    def step(self) -> None:
        """Updates the rows that the last `inputs(training=True)` read: s ← s + g², w ← w − lr·g/√s (Duchi et al. 2011).

        L2 is added to g, for these rows only.
        """
        for group, distinct, weight in self._pending:
            if weight.grad is None:
                continue
            grad = weight.grad.add_(weight, alpha=self._config.l2_embedding)
            squares = group.squares[distinct].addcmul_(grad, grad)
            group.squares[distinct] = squares
            group.changed[distinct] = True
            group.weight[distinct] = weight.detach().addcdiv(
                grad, squares.sqrt_().add_(1e-10), value=-self._config.lr_embedding
            )
        self._pending.clear()

    def weights(self) -> list[torch.Tensor]:
        """Returns the matrices of all rows, themselves."""
        return [group.weight for group in self._groups.values()]

    def touched(self) -> dict[str, tuple[Codes, npt.NDArray[np.float32] | None]]:
        """Returns by table what `step` and `admit` changed since the last call. Unchanged tables are left out.

        That is the codes [n] of rows, ascending, and the default row [dim], None where it is as it was.
        """
        touched: dict[str, tuple[Codes, npt.NDArray[np.float32] | None]] = {}
        for spec in self.schema.tables:
            group, known = self._group(spec.name), self.known[spec.name]
            start = group.start[spec.name]
            changed = group.changed[start : start + 1 + len(known)].numpy()
            places = np.flatnonzero(changed[1:])
            if not changed.any():
                continue
            default = group.weight[start].numpy().copy() if changed[0] else None
            touched[spec.name] = known[places], default
        for group in self._groups.values():
            group.changed.zero_()
        return touched

    def rows(self, table: str, keys: Keys) -> npt.NDArray[np.float32]:
        """Returns the rows of keys [n], float32 [n, dim]. Raises SchemaError for a key without a row of its own."""
        group = self._group(table)
        codes = np.flatnonzero(self._row_of[table] != group.start[table])
        there = self._ids.keys[table][codes]
        lacking = ~np.isin(keys, there)
        if lacking.any():
            raise SchemaError(f"table {table}: expected keys with a row of their own, got {keys[np.argmax(lacking)]}")
        places = self._row_of[table][codes[np.searchsorted(there, keys)]]
        return group.weight[torch.from_numpy(places)].numpy()

    def table(self, name: str) -> tuple[Keys, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Returns (keys ascending uint64 [n], rows float32 [n, dim], default float32 [dim]) of table `name`."""
        start, known = self._group(name).start[name], self.known[name]
        block = self._group(name).weight[start : start + 1 + len(known)].numpy().copy()
        there = self._row_of[name][known] != start
        return self._ids.keys[name][known[there]], block[1:][there], block[0]
