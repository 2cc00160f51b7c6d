"""The trainer's side of online sync: which rows of a pass are pushed, and as what version."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.bundle.table_file import open_table
from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.export.publish.id_book import IdBook, Selection
from pepnet_infer.export.publish.publisher_state import Intent, State
from pepnet_infer.export.publish.push_policy import PushPolicy, by_table
from pepnet_infer.rows.gset import Gset
from pepnet_infer.schema.ids import ID_BITS, MISSING_KEY, Keys
from pepnet_infer.schema.network_config import ModelConfig
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.sync.delta import DeltaHead, open_delta, write_delta
from pepnet_infer.sync.logs.transport import Position, Transport, last_version

Rows = npt.NDArray[np.float32]


class Publication(NamedTuple):
    """One pass."""

    position: Position
    model_version: int
    rows: int
    removed: int
    bytes: int


class Publisher:
    """Publishes what training passes change. For one thread of one process at a time.

    `touch` marks ids as a pass trains on them, `publish` ends the pass: ids that their table's policy lets through are
    read with `rows` and pushed, the others wait for a later pass, which pushes the value they have then. With `state`
    nothing that was touched before the last `publish` or `save` is lost when the process dies: save beside every
    checkpoint of the trainer.
    """

    def __init__(
        self,
        transport: Transport,
        base: Bundle | str | os.PathLike[str],
        state: str | os.PathLike[str] | None = None,
        policies: Mapping[str, PushPolicy] | None = None,
        default: PushPolicy | None = None,
        scoring: Gset | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Goes on from the last delta in the log, else from `base`, the bundle that followers begin with.

        policies: by name of a field, or of a table; `default` for the others. Raises ConfigError for names that are
        not there, and UpdateError when the log has gone on without this publisher's state.
        """
        self.bundle = base if isinstance(base, Bundle) else Bundle.open(base)
        self._transport, self._clock = transport, clock
        tables = self.bundle.schema.table_by_name
        scoring, now = scoring or Gset(), clock()
        self._books = {
            name: IdBook(policy, scoring)
            for name, policy in by_table(self.bundle.schema, policies or {}, default).items()
        }
        self._counts: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self.model_version, self._passes = self.bundle.model_version, 0
        self._state = None if state is None else State(Path(state))
        saved = None if self._state is None else self._state.load(self.bundle.schema.hash, self._books)
        self._intent: Intent | None = None  # appended, or not: the log knows
        # Weights, whether with a graph, and default rows of passes whose append failed.
        self._unsent: tuple[Mapping[str, Rows] | None, bool, dict[str, Rows]] = (None, False, {})
        if saved is None:
            for name, path in self.bundle.table_paths.items():
                file = open_table(path, tables[name])
                self._books[name].start(np.array(file.keys), np.array(file.scores, np.float32), now)
        else:
            self.model_version, self._passes = max(saved.model_version, self.model_version), saved.passes
            self._intent = saved.intent
        self._look_at_log()

    def touch(self, table: str, ids: npt.NDArray[Any], positive: npt.NDArray[np.bool_] | None = None) -> None:
        """Counts ids (or keys) that were trained on, as often as they come; positive [N]: in a positive sample.

        Touch what has changed, not what is about to change: a pass may end in between. The missing key counts for
        nothing.
        """
        keys = self._keys(table, ids)
        if positive is not None:
            positive = np.asarray(positive)
            if positive.shape != keys.shape or positive.dtype != np.bool_:
                got = f"{positive.dtype} {list(positive.shape)}"
                raise UpdateError("shape", f"{table}: positive: expected bool [{len(keys)}], got {got}")
        missing = keys == MISSING_KEY
        if missing.any():
            keys, positive = keys[~missing], None if positive is None else positive[~missing]
        self._counts["touched"] += len(keys)
        self._counts["coalesced"] += self._books[table].touch(keys, positive, self._clock())

    def delete(self, table: str, ids: npt.NDArray[Any]) -> None:
        """Notes that ids (or keys) have no row any more."""
        keys = self._keys(table, ids)
        self._books[table].delete(keys[keys != MISSING_KEY])

    def publish(
        self,
        rows: Callable[[str, Keys], Rows],
        dense: Mapping[str, Rows] | None = None,
        onnx: bool = False,
        defaults: Mapping[str, Rows] | None = None,
        everything: bool = False,
    ) -> Publication | None:
        """Ends a pass. Returns what was published, None when nothing was to be.

        rows: (table, keys [N] ascending) → float32 [N, dim], the rows as they are now. dense: all weights, where they
        changed. onnx: makes their graph too, for followers on ONNX Runtime; takes seconds. defaults: default rows that
        changed. everything: holds nothing back, as before a bundle, which has all rows as they are.

        What followers would refuse is never appended. Raises UpdateError, and all that was to be pushed waits for the
        next pass, which looks whether an append that failed came into the log all the same. So do weights and default
        rows when the append failed, but not for longer than the process: then give them again.
        """
        if dense is None:
            dense, onnx = self._unsent[:2]
        defaults = {**self._unsent[2], **(defaults or {})}
        now = float(self._clock())  # numpy's float, say, is none that a state is written with
        self._look_at_log()
        chosen = {name: book.choose(now, everything) for name, book in self._books.items()}
        version = self.model_version + 1
        changed = {name: self._rows(name, some, rows, version, defaults.get(name)) for name, some in chosen.items()}
        some = any(len(table.keys) or table.default is not None for table in changed.values())
        if not some and dense is None:
            self._settle(chosen, now)
            return None
        head = DeltaHead(self.model_version, version, self._passes, now, self.bundle.schema.hash)
        staging = self._staging(version)
        try:
            size = self._write(staging, head, changed, dense, onnx)
            self._unsent = dense, onnx, defaults
            self._intent = Intent(head, {name: one.noted() for name, one in chosen.items()})
            self.save()
            position = self._transport.append(staging)
        finally:
            shutil.rmtree(staging.parent, ignore_errors=True)
        self._intent, self.model_version, self._passes = None, version, self._passes + 1
        self._unsent = None, False, {}
        self._settle(chosen, now)
        pushed, removed = (sum(len(getattr(one, name)) for one in chosen.values()) for name in ("keys", "gone"))
        self._counts.update(passes=1, pushed=pushed, removed=removed, bytes=size, dense=int(dense is not None))
        self.save()
        return Publication(position, version, pushed, removed, size)

    def publish_bundle(self, bundle: str | os.PathLike[str]) -> Position:
        """Puts a bundle of the version published last into the log, for followers that lack deltas.

        Raises UpdateError for another version: followers would go on from it with deltas that are not on it.
        """
        self._look_at_log()
        opened = Bundle.open(bundle)
        if opened.model_version != self.model_version:
            raise UpdateError(
                "version", f"{bundle}: expected a bundle of version {self.model_version}, got {opened.model_version}"
            )
        return self._transport.append_bundle(opened.path)

    def save(self) -> None:
        """Writes the state, if there is one, for a trainer that makes a checkpoint now."""
        if self._state is not None:
            self._state.save(self.bundle.schema.hash, self.model_version, self._passes, self._intent, self._books)

    def stats(self) -> dict[str, Any]:
        """Returns counters since the publisher was made, as plain JSON values.

        touched, coalesced (touched again while waiting: one push for both), pushed, removed, passes, dense, bytes; held
        (ids held back, summed over passes, by reason: updates, limit, after_expiry, capped); tables (ids known, with a
        row, pending); model_version.
        """
        names = ("touched", "coalesced", "pushed", "removed", "passes", "dense", "bytes")
        return {
            **{name: self._counts[name] for name in names},
            "held": dict(self._held),
            "tables": {name: book.counts() for name, book in self._books.items()},
            "model_version": self.model_version,
        }

    def _keys(self, table: str, ids: npt.NDArray[Any]) -> Keys:
        spec = self.bundle.schema.table_by_name.get(table)
        if spec is None:
            raise UpdateError("table", f"expected a table of the bundle, got {table!r}")
        given = np.asarray(ids)
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise UpdateError("shape", f"{table}: expected integer ids [N], got {given.dtype} {list(given.shape)}")
        keys = given.astype(np.uint64)
        above = keys >> np.uint64(ID_BITS)
        odd = (above != 0) & (above != spec.number) & (keys != MISSING_KEY)
        if given.dtype.kind == "i":
            odd |= given < 0
        if odd.any():
            at = int(np.argmax(odd))
            wanted = f"an id below 2^48 or a key of table number {spec.number}"
            raise UpdateError("range", f"{table}: ids[{at}]: expected {wanted}, got {given[at]}")
        return np.where(keys == MISSING_KEY, keys, keys | np.uint64(spec.number << ID_BITS))

    def _rows(
        self, table: str, chosen: Selection, rows: Callable[[str, Keys], Rows], version: int, default: Rows | None
    ) -> RowBatch:
        dim = self.bundle.schema.table_by_name[table].dim
        read = np.asarray(rows(table, chosen.keys), np.float32) if len(chosen.keys) else np.empty((0, dim), np.float32)
        if read.shape != (len(chosen.keys), dim):
            raise UpdateError("shape", f"{table}: rows: expected {[len(chosen.keys), dim]}, got {list(read.shape)}")
        live = RowBatch.of(read, keys=chosen.keys, versions=version, scores=chosen.scores, expires=chosen.expires)
        gone = RowBatch.nothing(len(chosen.gone), dim, keys=chosen.gone, version=version)
        return replace(RowBatch.concat([live, gone]).ordered(), default=default)

    def _write(
        self,
        target: Path,
        head: DeltaHead,
        rows: Mapping[str, RowBatch],
        dense: Mapping[str, Rows] | None,
        onnx: bool,
    ) -> int:
        """Writes a delta, looks at it as a follower would, and returns its bytes."""
        schema, config = self.bundle.schema, self.bundle.config
        with UpdateError.in_place_of(BundleError, reason="delta"):
            graph = graph_of(config, len(schema.tasks), dense) if onnx and dense is not None else None
            write_delta(target, head, rows, dense, graph)
        return open_delta(target, schema, self.bundle.network).bytes

    def _settle(self, chosen: Mapping[str, Selection], now: float) -> None:
        for name, one in chosen.items():
            self._books[name].pushed(one, now)
            self._held.update({reason: count for reason, count in one.held.items() if count})

    def _staging(self, version: int) -> Path:
        if self._state is not None:
            return self._state.staging(version)
        return Path(tempfile.mkdtemp(prefix="pepnet-publish-")) / str(version)

    def _look_at_log(self) -> None:
        """Notes what came of an append that nobody heard the end of; raises UpdateError when others have published.

        A log that is behind was trimmed, or is a new one: followers begin with a bundle.
        """
        last = self._transport.last_delta()
        if (intent := self._intent) is not None:
            if last is not None and last[1] == intent.head:
                self.model_version, self._passes = intent.head.model_version, intent.head.pass_number + 1
                for name, noted in intent.noted.items():
                    self._books[name].may_be_pushed(noted, intent.head.produced_at)
            self._intent = None
        found = last_version(last, self._transport.last_bundle())
        if found is not None and found > self.model_version:
            raise UpdateError(
                "publisher",
                f"log: expected nothing after version {self.model_version}, got {found}: somebody else has published; "
                "publish from the newest bundle, or with the state of whoever did",
            )


def graph_of(config: ModelConfig, tasks: int, dense: Mapping[str, Rows]) -> bytes:
    """Returns `dense.onnx` of weights, made and compared with torch as a bundle's is.

    Raises BundleError when its scores are off.
    """
    # torch: seconds, and not needed for the rest
    from pepnet_infer.export.bundle.parity import ROWS, measure, reference
    from pepnet_infer.export.bundle.simplify import simplify
    from pepnet_infer.export.bundle.to_onnx import to_onnx
    from pepnet_infer.export.model.network import build_network, load_dense

    network = build_network(config, tasks)
    load_dense(network, dense)
    exported = to_onnx(network, config, tasks)
    simplified = simplify(exported, config, tasks)
    names = tuple(f"task{number}" for number in range(tasks))
    rows = reference(network, normal_inputs(config.inputs, ROWS, 0))
    measure(network, names, exported, simplified, {"normal": rows})
    graph: bytes = simplified.SerializeToString(deterministic=True)
    return graph
