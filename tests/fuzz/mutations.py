"""Changes to data at the level of its format: JSON values, tensors and headers, messages of protobuf, bytes.

Every change is drawn from a `random.Random`, so that a seed and an index give the same mutant again.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
import struct
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import numpy as np

from pepnet_infer.storage.tensorfile import DTYPES

Random = random.Random
Files = dict[str, bytes]

#: Text that JSON allows or nearly allows, and that Python values cannot say.
RAW = (
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "-Infinity",
    "1" * 5000,
    "0." + "9" * 400,
    "[" * 2000 + "]" * 2000,
    '{"a":' * 2000 + "1" + "}" * 2000,
    "[" * 30_000,
    "{" + ",".join(f'"k{i}":{{}}' for i in range(2000)) + "}",
    '{"a": 1, "a": 2}',
    "01",
    "",
    "nul",
    '"\\ud800"',
    "{}",
    "[]",
)
NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 8, 64, 65, 100, 255, 256, 4096, 65535, 65536, 65537, 2**24, 2**31 - 1, 2**31, 2**32),
    *(2**48 - 1, 2**48, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**31), -(2**63), 10**30, 10**400),
    *(0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 1e-45, 5e-324, 1e20, 1e38, 3.5e38, 1e300, 1.7976931348623157e308),
)
TEXTS = (
    *("", " ", "a", "0", "1", "true", "null", "nan", "click", "user", "general", "F32", "I64", "BOOL", "F8_E4M3"),
    *("..", "../x", "/etc/passwd", "a/b", "a\\b", "a\0b", ".", "./x", "a//b", "a" * 300, "x" * 100_000, "\n", "\r\n"),
    *("é", "ü" * 50, "\u202e", "\ud800", "\U0001f600", "__proto__", "__class__", "__metadata__", "%s%n", "{0}", "$(x)"),
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], [0] * 65, [1] * 3000, {"": ""}, {"a": {"b": []}})
FLOATS = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-39, 1e20, -1e20, 3.4e38, -3.4e38, 1.0, -1.0, 88.8, 1e10)


class Raw(str):
    """What stands in a JSON document as it is."""

    __slots__ = ()


def nasty(random: Random) -> Any:
    """Draws a value to put into JSON."""
    kind = random.random()
    if kind < 0.45:
        return random.choice(NUMBERS)
    if kind < 0.7:
        return random.choice(TEXTS)
    if kind < 0.85:
        return copy.deepcopy(random.choice(OTHERS))
    return Raw(random.choice(RAW))


def change_json(random: Random, document: Any) -> Any:
    """Returns the document with one value or key changed, removed, doubled or moved. The one given is not touched."""
    document = copy.deepcopy(document)
    places = list(_places(document))
    if not places:
        return nasty(random)
    # Long lists of numbers would be drawn nearly always: a container first, then a place in it.
    parent, keys = random.choice(places)
    key = random.choice(keys)
    how = random.random()
    if how < 0.5:
        parent[key] = nasty(random)
    elif how < 0.6:
        parent[key] = _near(random, parent[key])
    elif how < 0.7:
        del parent[key]
    elif how < 0.8:
        other, others = random.choice(places)
        parent[key] = copy.deepcopy(other[random.choice(others)])
    elif isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]) if how < 0.9 else nasty(random))
    else:
        value = parent[key] if how < 0.9 else nasty(random)
        name = random.choice(TEXTS) if how < 0.95 else f"{key}{random.choice(TEXTS)}"
        parent[name] = copy.deepcopy(value)
        if random.random() < 0.5:
            parent.pop(key, None)
    return document


def dump_json(document: Any) -> bytes:
    """Returns the text of a document, with what is `Raw` in it as it is."""
    raw: list[str] = []

    def mark(value: Any) -> Any:
        if isinstance(value, Raw):
            raw.append(value)
            return f"@raw{len(raw) - 1}@"
        if isinstance(value, list):
            return [mark(item) for item in value]
        if isinstance(value, dict):
            return {name: mark(item) for name, item in value.items()}
        return value

    # Integers of more digits than Python writes are there as text.
    text = json.dumps(mark(document))
    for number, piece in enumerate(raw):
        text = text.replace(f'"@raw{number}@"', piece, 1)
    return text.encode("utf-8", "surrogatepass")


def change_bytes(random: Random, data: bytes) -> bytes:
    """Returns other bytes: some flipped, set, cut off, taken out, doubled, or put in."""
    if not data:
        return random.randbytes(random.randrange(1, 64))
    changed = bytearray(data)
    how, at = random.random(), random.randrange(len(data))
    if how < 0.3:
        for _ in range(random.choice((1, 1, 1, 2, 8))):
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    elif how < 0.55:
        size = random.choice((1, 2, 4, 8))
        changed[at : at + size] = random.choice((b"\0" * size, b"\xff" * size, b"\x80" * size, random.randbytes(size)))
    elif how < 0.7:
        form = random.choice(("<H", "<I", "<Q"))
        wide = random.choice([number for number in NUMBERS if isinstance(number, int)])
        piece = struct.pack(form, wide % 256 ** struct.calcsize(form))
        changed[at : at + len(piece)] = piece
    elif how < 0.8:
        del changed[at:]
    elif how < 0.88:
        del changed[at : at + random.randrange(1, 32)]
    elif how < 0.94:
        changed[at:at] = changed[at : at + random.randrange(1, 64)]
    else:
        changed[at:at] = random.randbytes(random.randrange(1, 64))
    return bytes(changed)


def change_array(random: Random, array: np.ndarray) -> np.ndarray:
    """Returns an array of the same dtype and shape with some values that are extreme, alike or in another order."""
    changed = np.array(array)
    if changed.size == 0:
        return changed
    flat, how = changed.reshape(-1), random.random()
    if how < 0.7:
        for _ in range(random.choice((1, 1, 2, flat.size))):
            flat[random.randrange(flat.size)] = extreme(random, changed.dtype)
    elif how < 0.8:
        flat[:] = extreme(random, changed.dtype)
    elif how < 0.9:
        with np.errstate(all="ignore"):
            flat *= np.asarray(extreme(random, changed.dtype), changed.dtype)
    else:
        flat[:] = flat[::-1].copy()
    return changed


def extreme(random: Random, dtype: np.dtype[Any]) -> Any:
    """Draws a value that `dtype` holds and that nobody expects."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return np.asarray(random.choice(FLOATS)).astype(dtype)
    if dtype.kind == "b":
        return random.random() < 0.5
    info = np.iinfo(dtype)
    return random.choice(
        [n for n in NUMBERS if isinstance(n, int) and info.min <= n <= info.max] + [info.min, info.max]
    )


def change_tensors(random: Random, data: bytes) -> bytes:
    """Returns another safetensors file: its header's entries, its tensors' values, shapes and dtypes, or its bytes."""
    (size,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    how = random.random()
    if how < 0.45:
        name = random.choice(list(header))
        begin, end = header[name]["data_offsets"]
        array = np.frombuffer(body, DTYPES[header[name]["dtype"]], (end - begin) // _item(header[name]), begin)
        return join_tensors(header, body[:begin] + change_array(random, array).tobytes() + body[end:])
    if how < 0.6:
        return join_tensors(_reshaped(random, header, body)[0], body)
    if how < 0.85:
        return join_tensors(change_json(random, header), body)
    if how < 0.9:
        text = dump_json(header)
        length = random.choice([number for number in NUMBERS if isinstance(number, int) and 0 <= number < 2**64])
        return struct.pack("<Q", length) + text + body
    return change_bytes(random, data)


def join_tensors(header: Any, body: bytes) -> bytes:
    """Returns a safetensors file."""
    text = dump_json(header)
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def _reshaped(random: Random, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    """Gives a tensor another shape or dtype of as many bytes, so that the header alone is right."""
    name = random.choice(list(header))
    entry = header[name] = dict(header[name])
    size = entry["data_offsets"][1] - entry["data_offsets"][0]
    count = size // _item(entry)
    if random.random() < 0.5:
        entry["dtype"] = random.choice([dtype for dtype in DTYPES if size % np.dtype(DTYPES[dtype]).itemsize == 0])
        count = size // _item(entry)
    entry["shape"] = random.choice(
        ([count], [count, 1], [1, count], [1] * 70 + [count], [0, count], [2**62, 0], [0] * 65, [count, *[1] * 31], [])
    )
    return header, body


def _item(entry: Mapping[str, Any]) -> int:
    return np.dtype(DTYPES[entry["dtype"]]).itemsize


def change_message(random: Random, message: Any) -> None:
    """Changes one field of a protobuf message, at any depth, in place."""
    while True:
        fields = message.ListFields()
        if not fields:
            return
        field, value = random.choice(fields)
        repeated = hasattr(value, "__len__") and not isinstance(value, str | bytes)
        if repeated and random.random() < 0.15:
            del value[random.randrange(len(value))]
            return
        if field.type == field.TYPE_MESSAGE:
            message = random.choice(value) if repeated else value
            if random.random() < 0.05:
                message.Clear()
                return
        elif repeated:
            value[random.randrange(len(value))] = _scalar(random, field)
            return
        else:
            setattr(message, field.name, _scalar(random, field))
            return


def _scalar(random: Random, field: Any) -> Any:
    if field.type == field.TYPE_BYTES:
        return random.randbytes(random.choice((0, 1, 4, 64)))
    if field.type == field.TYPE_STRING:
        return random.choice([text for text in TEXTS if text.isascii()])
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return random.choice(FLOATS)
    if field.type == field.TYPE_ENUM:
        return random.choice(list(field.enum_type.values_by_number))
    small = field.type in (field.TYPE_INT32, field.TYPE_UINT32)
    return random.choice([n for n in NUMBERS if isinstance(n, int) and 0 <= n < (2**31 if small else 2**63)])


def sign(files: MutableMapping[str, bytes], change: Callable[[dict[str, Any]], Any] | None = None) -> None:
    """Lists `files` in their manifest with the sizes and hashes that they have now, then applies `change` to it."""
    manifest = json.loads(files["manifest.json"])
    manifest["files"] = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
        if name != "manifest.json"
    }
    files["manifest.json"] = dump_json(change(manifest) if change else manifest)


def _places(document: Any) -> Any:
    if isinstance(document, dict) and document:
        yield document, list(document)
        for value in document.values():
            yield from _places(value)
    elif isinstance(document, list) and document:
        yield document, range(len(document))
        for value in document:
            yield from _places(value)


def _near(random: Random, value: Any) -> Any:
    """Returns nearly the same."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return random.choice((value + 1, value - 1, -value, float(value), str(value), [value], value * 2**32))
    if isinstance(value, float):
        whole = int(value) if math.isfinite(value) else 0  # a change before this one may have made it infinite
        return random.choice((-value, value * 1e30, value * 1e-30, whole, str(value)))
    if isinstance(value, str):
        return random.choice(
            (value + " ", value.upper(), value[:-1], value * 2, value + "\0", [value], value.encode().hex())
        )
    return [value]
