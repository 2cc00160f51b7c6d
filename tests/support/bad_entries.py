"""Entries that nobody's publisher makes: forged and foreign ones, and random changes to good ones, for both logs.

A forged delta is signed anew after each change, so that what is tried lies behind the hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from redis import Redis

from pepnet_infer.sync.logs.directory import DirectoryLog
from pepnet_infer.sync.logs.redis import RedisLog

ROWS = "rows/user.safetensors"
Files = dict[str, bytes]


def tensors(header: object, data: bytes = b"") -> bytes:
    """Returns a file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def delta(base: int, schema_hash: str, content: Mapping[str, bytes], **head: object) -> Files:
    """Returns the files of a delta on `base`, whatever they hold, with hashes that are right."""
    listing = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in content.items()}
    manifest = {
        "format": "pepnet-delta",
        "format_version": 1,
        "base_version": base,
        "model_version": base + 1,
        "pass": 0,
        "produced_at": time.time(),
        "schema_hash": schema_hash,
        "files": listing,
        **head,
    }
    return {"manifest.json": json.dumps(manifest).encode(), **content}


def _tensor(shape: object, dtype: str = "U64", span: object = (0, 0)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": span}


def forged(base: int, schema_hash: str) -> dict[str, Files]:
    """Returns deltas by what is wrong with them. None may be applied."""

    def made(header: object, data: bytes = b"", **head: object) -> Files:
        return delta(base, schema_hash, {ROWS: tensors(header, data)}, **head)

    def manifest(text: bytes) -> Files:
        return {"manifest.json": text}

    return {
        "300 dimensions of 2^63 - 1": made({"keys": _tensor([2**63 - 1] * 300)}),
        "65 dimensions": made({"keys": _tensor([1] * 65, span=(0, 8))}, bytes(8)),
        "no elements in 65 dimensions": made({"keys": _tensor([0] * 65)}),
        "a shape of words": made({"keys": _tensor(["a"])}),
        "a shape below 0": made({"keys": _tensor([-1], span=(0, -8))}),
        "a name twice": made(b'{"keys":' + json.dumps(_tensor([0])).encode() + b',"keys":{}}'),
        "a header that is a list": made([]),
        "an infinite offset": made(b'{"keys":{"dtype":"U64","shape":[0],"data_offsets":[0,Infinity]}}'),
        "a header nested without end": made(b'{"keys":' + b"[" * 50_000),
        "a number without end": made(b'{"keys":{"dtype":"U64","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}'),
        "a header without UTF-8": made(b'{"\xff": 1}'),
        "a header longer than the file": delta(base, schema_hash, {ROWS: struct.pack("<Q", 1 << 62)}),
        "a file of three bytes": delta(base, schema_hash, {ROWS: b"abc"}),
        "many tensors": made({str(number): _tensor([0]) for number in range(2000)}),
        "a surrogate as a file": delta(base, schema_hash, {}, files={"\ud800": {"bytes": 0, "sha256": ""}}),
        "a file of 2^63 bytes": delta(base, schema_hash, {}, files={ROWS: {"bytes": 2**63, "sha256": "0" * 64}}),
        "fewer than no bytes": delta(base, schema_hash, {}, files={ROWS: {"bytes": -1, "sha256": "0" * 64}}),
        "a hash that is a list": delta(base, schema_hash, {}, files={ROWS: {"bytes": 0, "sha256": [[]]}}),
        "a path out of it": delta(base, schema_hash, {}, files={"../../x": {"bytes": 0, "sha256": "0" * 64}}),
        "another schema": delta(base, "ab" * 32, {}),
        "a version without end": delta(base, schema_hash, {}, model_version=10**400),
        "the last version, without its rows": delta(
            base, schema_hash, {}, model_version=2**63 - 1, files={ROWS: {"bytes": 7, "sha256": "0" * 64}}
        ),
        "nested JSON": manifest(b'{"a":' * 100_000),
        "JSON of many values": manifest(b"[" + b"{}," * 1_000_000 + b"{}]"),
        "an integer as manifest": manifest(b"7"),
        "no UTF-8": manifest(b"\xff\xfe{}"),
        "an empty manifest": manifest(b""),
        "no manifest": {"notes.txt": b"mine"},
        "nothing": {},
    }


def write(root: Path, files: Mapping[str, bytes]) -> Path:
    """Writes an entry that stands for itself."""
    root.mkdir(parents=True)
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def put(log: DirectoryLog | RedisLog, files: Mapping[str, bytes]) -> None:
    """Puts an entry at the end of a log past all that an append checks."""
    if isinstance(log, DirectoryLog):
        write(_next(log), files)
        return
    index = [[name, len(data), 0, 0] for name, data in files.items()]
    inline = {f"f{number}": data for number, data in enumerate(files.values()) if data}
    put_fields(log, {"kind": "delta", "upload": "00", "index": json.dumps(index), **inline})


def put_fields(log: RedisLog, fields: Mapping[str, Any]) -> bytes:
    """Puts an entry into the stream of a log, with any fields. Returns its stream id."""
    given: dict[Any, Any] = {"log": log.identity(), **fields}
    with Redis.from_url(log.url) as client:
        stream_id: bytes = client.xadd(f"{log.prefix}log", given)  # type: ignore[assignment]
        return stream_id


#: What may lie in a folder of a log under the name of an entry.
FOREIGN: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.write_text("mine"),
    "a pipe": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a folder": lambda path: path.symlink_to("/tmp"),
    "an empty folder": Path.mkdir,
    "a pipe as manifest": lambda path: (path.mkdir(), os.mkfifo(path / "manifest.json")),
    "a folder as manifest": lambda path: (path / "manifest.json").mkdir(parents=True),
}


def put_foreign(log: DirectoryLog, kind: str, what: str) -> None:
    """Puts something of `FOREIGN` at the end of the deltas or the bundles."""
    (log.path / kind).mkdir(exist_ok=True)
    FOREIGN[what](_next(log, kind))


#: Entries of a stream that nobody's publisher makes.
FOREIGN_FIELDS: dict[str, dict[str, Any]] = {
    "nothing of ours": {"temperature": "21"},
    "no index": {"kind": "delta", "upload": "00"},
    "no upload": {"kind": "delta", "index": "[]"},
    "an infinite size": {"kind": "delta", "upload": "00", "index": '[["manifest.json",Infinity,0,0]]'},
    "a size without end": {"kind": "delta", "upload": "00", "index": f'[["manifest.json",{"9" * 5000},0,0]]'},
    "as many chunks as there are numbers": {"kind": "delta", "upload": "00", "index": f'[["a",{2**62},0,{2**40}]]'},
    "chunks that are not there": {"kind": "delta", "upload": "00", "index": '[["manifest.json",5,0,1]]'},
    "nested JSON": {"kind": "delta", "upload": "00", "index": "[" * 100_000},
    "an index of null": {"kind": "delta", "upload": "00", "index": "null"},
    "no UTF-8": {"kind": "delta", "upload": b"\xff", "index": b"\xff"},
    "of another log": {"kind": "delta", "log": "0" * 32, "upload": "00", "index": "[]"},
    "of no log": {"kind": "delta", "log": "", "upload": "00", "index": "[]"},
    "a folder as deep as a name is long": {
        "kind": "delta",
        "upload": "00",
        "index": json.dumps([["/".join("a" * 1500), 0, 0, 0]]),
    },
    "a large index": {"kind": "delta", "upload": "00", "index": " " * (5 << 20)},
    "a kind of our own with more": {"kind": "delta2", "upload": "00", "index": "[]"},
}


def mutated(chance: random.Random, files: Mapping[str, bytes]) -> Files:
    """Returns a good delta's files with one to three changes; what is changed is signed again, mostly."""
    changed = dict(files)
    for _ in range(chance.choice((1, 1, 2, 3))):
        name = chance.choice(sorted(changed))
        changed[name] = _mutated_bytes(chance, changed[name])
    return signed(changed) if chance.random() < 0.8 else changed


def signed(files: Mapping[str, bytes]) -> Files:
    """Returns the files with sizes and hashes in the manifest that are right, where it is one."""
    try:
        manifest = json.loads(files["manifest.json"])
        listing = manifest["files"]
        for name in [name for name in listing if name in files]:
            data = files[name]
            listing[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        return {**files, "manifest.json": json.dumps(manifest).encode()}
    except (KeyError, TypeError, ValueError, RecursionError):
        return dict(files)


_ODD = (b"", b"0", b"-1", b"Infinity", b"NaN", b"1e999", b"[[]]", b"{}", b"null", b'"\\ud800"', b"9" * 400, b"\xff")


def _mutated_bytes(chance: random.Random, data: bytes) -> bytes:
    how = chance.randrange(5)
    if not data or how == 0:
        return data[: chance.randrange(len(data) + 1)]
    at = chance.randrange(min(len(data), 600) if chance.random() < 0.8 else len(data))  # headers are where it begins
    if how == 1:
        return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
    if how == 2:
        return data[:at] + chance.randbytes(chance.randrange(1, 9)) + data[at + chance.randrange(9) :]
    digits = [place for place in range(min(len(data), 2000)) if data[place : place + 1].isdigit()]
    place = chance.choice(digits) if digits and how == 3 else at
    return data[:place] + chance.choice(_ODD) + data[place + chance.randrange(3) :]


def _next(log: DirectoryLog, kind: str = "deltas") -> Path:
    there = [int(path.name) for folder in ("deltas", "bundles") for path in (log.path / folder).glob("0*")]
    return log.path / kind / f"{max(there, default=0) + 1:020d}"
