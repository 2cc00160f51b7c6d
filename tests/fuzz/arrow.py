"""Batches: Arrow arrays with damaged buffers, IPC streams, columns of every type, and what Python may give instead."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from fuzz.corpus import ROWS, batch
from fuzz.mutations import FLOATS, NUMBERS, OTHERS, TEXTS, change_array, change_bytes
from fuzz.target import Outcome, Target, check_scores
from pepnet_infer.engine import Engine

_INTS = [number for number in NUMBERS if isinstance(number, int)]
_LENGTHS = (0, 1, ROWS - 1, ROWS + 1, 64, 1000, 2**20, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
_USER = ("user_id", "watched", "age")
REFUSALS = (
    pa.ArrowException,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    NotImplementedError,
    MemoryError,
)


@dataclass
class Batch:
    """What is scored, made by `build` at the last moment: an array with wrong offsets must not even be shown."""

    how: str
    build: Callable[[], Any]
    call: str = "score"


class ArrowTarget(Target[Batch]):
    """Scores and encodes whole batches, and ranks."""

    def __init__(self, corpus: Path, scratch: Path) -> None:
        super().__init__(corpus, scratch)
        self._columns = batch()
        self._engine = Engine.load(corpus / "bundle", backend="native", threads=1)
        plain = pa.RecordBatch.from_pydict(self._columns)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, plain.schema) as writer:
            writer.write_batch(plain)
        self._ipc = sink.getvalue().to_pybytes()

    def make(self, random: Random) -> Batch:
        """Returns one batch."""
        how = random.random()
        call = random.choice(("score", "score", "encode_rows", "strict", "rank"))
        if how < 0.35:
            return self._buffers(random, call)
        if how < 0.6:
            data = self._ipc
            for _ in range(random.choice((1, 1, 2, 4))):
                data = change_bytes(random, data)
            return Batch("ipc", lambda: pa.ipc.open_stream(pa.py_buffer(data)).read_all(), call)
        name = random.choice(list(self._columns))
        column = typed_column(random) if how < 0.85 else _python(random, self._columns[name])
        columns = self._columns | {name: column}
        if how < 0.85 and random.random() < 0.6:
            return Batch(f"{name}: {column.type}", lambda: pa.Table.from_pydict(columns), call)
        return Batch(f"{name}: {column!r:.500}", lambda: columns, call)

    def run(self, mutant: Batch) -> Outcome:
        """Builds, then scores. What Arrow itself does not make a batch of is nothing that reaches us."""
        try:
            given = mutant.build()
        except REFUSALS:
            return "unreadable"
        engine = self._engine
        if mutant.call == "encode_rows":
            encoded = engine.encode_rows(given)
            check_scores(engine.score_features(encoded.features), len(encoded.bad), len(engine.tasks))
        elif mutant.call == "rank" and isinstance(given, dict):
            user = {name: given[name][0] for name in _USER if _indexed(given[name]) and len(given[name])}
            items = {name: column for name, column in given.items() if name not in (*_USER, "tab", "time_ms")}
            engine.rank(user, items, "home", {"time_ms": 1_700_000_000_000})
        else:
            scores = engine.score(given, strict=mutant.call == "strict")
            check_scores(scores, len(scores), len(engine.tasks))
        return "accepted"

    def _buffers(self, random: Random, call: str) -> Batch:
        """Makes a column of other buffers, lengths or offsets; only a reader of IPC or C data would."""
        columns = dict(self._columns)
        name = random.choice(list(columns))
        try:
            columns[name] = _damaged(random, columns[name])
        except REFUSALS:
            return Batch(f"{name}: not even an array", lambda: dict(self._columns), call)
        if random.random() < 0.5:
            return Batch(f"{name}: buffers", lambda: columns, call)
        return Batch(
            f"{name}: buffers in a batch",
            lambda: pa.RecordBatch.from_arrays(list(columns.values()), list(columns)),
            call,
        )


def _indexed(column: Any) -> bool:
    return isinstance(column, list | tuple | pa.Array) or (isinstance(column, np.ndarray) and column.ndim > 0)


def _damaged(random: Random, array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_dictionary(kind):
        indices, words = array.indices, array.dictionary
        if random.random() < 0.5:
            indices = _damaged(random, indices)
        else:
            words = _damaged(random, words)
        return pa.DictionaryArray.from_arrays(indices, words, safe=False)
    children = []
    buffers = array.buffers()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        children, buffers = [array.values], buffers[:2]
        if random.random() < 0.3:
            children = [_damaged(random, array.values)]
    place = random.randrange(len(buffers))
    length, nulls, offset = len(array), -1, 0
    how = random.random()
    if how < 0.65:
        data = (buffers[place] or pa.py_buffer(b"")).to_pybytes()
        wide = pa.types.is_large_string(kind) or pa.types.is_large_list(kind)
        if place == 1 and (pa.types.is_nested(kind) or pa.types.is_string(kind) or wide) and random.random() < 0.8:
            offsets = np.frombuffer(data, np.int64 if wide else np.int32)
            data = change_array(random, offsets).tobytes()
        else:
            data = change_bytes(random, data)
        buffers[place] = pa.py_buffer(data)
    elif how < 0.75:
        buffers[place] = random.choice((None, pa.py_buffer(b""), pa.py_buffer(b"\xff" * 8)))
    elif how < 0.85:
        length = random.choice(_LENGTHS)
    elif how < 0.95:
        offset = random.choice(_LENGTHS)
        length = random.choice((length, 1, 0))
    else:
        nulls = random.choice((0, 1, 100, length))
    return pa.Array.from_buffers(kind, length, buffers, nulls, offset, children)


def typed_column(random: Random) -> pa.Array:
    """Draws a column of ROWS values, or not quite, of any type there is."""
    count = random.choice((ROWS, ROWS, ROWS, ROWS, 0, 1, ROWS + 1))
    numbers = [random.choice(_INTS) for _ in range(count)]
    texts = [random.choice(TEXTS[:20] + TEXTS[-10:]).encode("utf-8", "replace") for _ in range(count)]
    small = [number % 128 for number in numbers]
    nulls = [None if random.random() < 0.3 else n for n in small]
    makers: tuple[Callable[[], pa.Array], ...] = (
        lambda: pa.array(
            nulls, random.choice((pa.int8(), pa.uint8(), pa.int32(), pa.uint64(), pa.float32(), pa.float64()))
        ),
        lambda: pa.array([n % 2**63 * random.choice((1, -1)) for n in numbers], pa.int64()),
        lambda: pa.array([n % 2**64 for n in numbers], pa.uint64()),
        lambda: pa.array([random.choice(FLOATS) for _ in range(count)], random.choice((pa.float32(), pa.float64()))),
        lambda: pa.array(np.array([random.choice(FLOATS[:6]) for _ in range(count)], np.float16)),
        lambda: pa.array(texts, random.choice((pa.binary(), pa.large_binary(), pa.binary_view()))),
        lambda: pa.array(
            [text.decode() for text in texts], random.choice((pa.string(), pa.large_string(), pa.string_view()))
        ),
        lambda: pa.array([text.decode() for text in texts]).dictionary_encode(),
        lambda: pa.nulls(
            count, random.choice((pa.null(), pa.int64(), pa.string(), pa.list_(pa.int64()), pa.float32()))
        ),
        lambda: pa.array([bool(n % 2) for n in numbers]),
        lambda: pa.array(
            [n % 2**40 for n in numbers],
            random.choice((pa.timestamp("ns", "UTC"), pa.timestamp("s"), pa.duration("us"))),
        ),
        lambda: pa.array(
            [datetime.date(1, 1, 1), datetime.date(9999, 12, 31)] * (count // 2),
            random.choice((pa.date32(), pa.date64())),
        ),
        lambda: pa.array(
            [decimal.Decimal(n) for n in small], random.choice((pa.decimal128(38, 10), pa.decimal256(76, 0)))
        ),
        lambda: pa.array(
            [[n] * (n % 5) for n in small],
            random.choice((pa.list_(pa.int8()), pa.large_list(pa.float64()), pa.list_view(pa.int16()))),
        ),
        lambda: pa.array([None if n % 3 == 0 else [None, n] for n in small], pa.list_(pa.int64())),
        lambda: pa.array([[[n]] for n in small], pa.list_(pa.list_(pa.int64()))),
        lambda: pa.array([[n, n] for n in small], pa.list_(pa.int32(), 2)),
        lambda: pa.array([{"a": n} for n in small]),
        lambda: pa.array([[("k", n)] for n in small], pa.map_(pa.string(), pa.int64())),
        lambda: pa.RunEndEncodedArray.from_arrays(pa.array([max(count, 1)], pa.int32()), pa.array([1])),
        lambda: pa.UnionArray.from_sparse(pa.array([0] * count, pa.int8()), [pa.array(small, pa.int64())]),
        lambda: pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int8()), pa.array([None], pa.string())),
        lambda: pa.array(small, pa.int64()).slice(random.randrange(3)),
        lambda: pa.array([text.decode() for text in texts]).slice(1),
        lambda: pa.chunked_array([pa.array(small[:3], pa.int64()), pa.array(small[3:], pa.int64())]),
    )
    while True:
        try:
            return random.choice(makers)()
        except REFUSALS:
            continue


def _python(random: Random, column: pa.Array) -> Any:
    """Draws what somebody might give for a column in a dict."""
    values = column.to_pylist()
    makers: tuple[Callable[[], Any], ...] = (
        lambda: [*values[:-1], random.choice((*NUMBERS, *TEXTS, *OTHERS))],
        lambda: [random.choice(NUMBERS) for _ in range(ROWS)],
        lambda: [[random.choice(NUMBERS) for _ in range(random.randrange(4))] for _ in range(ROWS)],
        lambda: np.array([*values[:-1], random.choice((*NUMBERS, *TEXTS, *OTHERS, None))], object),
        lambda: np.array([n % 2**63 for n in random.choices(_INTS, k=ROWS)], random.choice(("<i8", ">i8", "<u8"))),
        lambda: np.array(random.choices(FLOATS, k=ROWS), random.choice(("f4", ">f4", "f8", "g", "c16"))),
        lambda: np.zeros(
            random.choice((0, 1, (ROWS, 1), (1, ROWS), (ROWS, 0), (ROWS, 2, 2), ())),
            random.choice(("i8", "f4", "U3", "?")),
        ),
        lambda: (np.arange(10), _offsets(random)),
        lambda: (np.array(["a"] * 10), _offsets(random)),
        lambda: np.ma.masked_array(np.arange(ROWS), [True] * ROWS),
        lambda: np.array(["2020-01-01"] * ROWS, "datetime64[ns]"),
        lambda: np.arange(2 * ROWS)[::2],
        lambda: np.arange(ROWS)[::-1],
        lambda: np.array([b"\xff\xfe"] * ROWS),
        lambda: np.array(["\ud800"] * ROWS),
        lambda: random.choice(
            (*OTHERS, *NUMBERS, "text", b"bytes", range(ROWS), iter(values), {1, 2}, values, object())
        ),
    )
    while True:
        try:
            with np.errstate(all="ignore"):
                return random.choice(makers)()
        except (ValueError, TypeError, OverflowError, UnicodeError):
            continue


def _offsets(random: Random) -> Any:
    good = np.linspace(0, 10, ROWS + 1).astype(np.int64)
    if random.random() < 0.2:
        return random.choice(
            (None, [], good.tolist(), good.astype("f4"), good.astype("u1"), good.reshape(-1, 1), good[:-1])
        )
    return change_array(random, good.astype(random.choice(("<i8", "<i4", ">i8", "<u8"))))
