"""Deltas that are damaged, forged, or for somebody else. Each is refused, with its own reason and message."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forged import Break, drop, listed, manifest, put, relist, tensors
from sync_deltas import BASE, DENSE, USER, VIDEO, reasons

from pepnet_infer.errors import UpdateError
from pepnet_infer.sync.delta import Delta

pytestmark = pytest.mark.hostile


def unlisted(name: str) -> Break:
    def apply(root: Path) -> None:
        (root / name).unlink()
        manifest(lambda data: data["files"].pop(name))(root)

    return apply


def text(content: str | bytes) -> Break:
    """Another manifest."""
    data = content if isinstance(content, bytes) else content.encode()
    return lambda root: (root / "manifest.json").write_bytes(data)


def tensor(name: str, value: Callable[[Any], Any], file: str = USER) -> Break:
    return tensors(file, lambda values: values.__setitem__(name, value(values[name])))


def at(index: Any, value: Any) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[index] = value
        return array

    return change


def replaced(name: str, with_: Callable[[Path], object]) -> Break:
    def apply(root: Path) -> None:
        (root / name).unlink()
        with_(root / name)

    return apply


def doubled(root: Path) -> None:
    data = (root / "manifest.json").read_text()
    again = data.replace('"files": {', '"files": {"rows/user.safetensors": {"bytes": 1, "sha256": "0"},', 1)
    (root / "manifest.json").write_text(again)


def huge(root: Path) -> None:
    with open(root / "manifest.json", "r+b") as file:
        file.truncate(100_000_000)


def both(*breaks: Break) -> Break:
    return lambda root: [apply(root) for apply in breaks]


ENTRY = {"bytes": 17, "sha256": hashlib.sha256(b"nobody's business").hexdigest()}
LINK = "expected a regular file, got a symbolic link"
TWO_63 = "expected a version above its base's, both from 0 to 2\\^63 - 1, got"

CASES: dict[str, tuple[Break, str, str]] = {
    # the head
    "another format": (
        put("format", "pepnet-bundle"),
        "format",
        "format: expected .*pepnet-delta",
    ),
    "a newer format": (put("format_version", 2), "format", "format_version: expected .*1.*, got 2"),
    "another schema": (put("schema_hash", "ab" * 32), "schema", "schema_hash: expected [0-9a-f]{64}, got abab"),
    "a schema hash without end": (put("schema_hash", "x" * 10**6), "schema", "got x{80}$"),
    "a lower version": (put("model_version", 6), "version", f"{TWO_63} 7 to 6"),
    "its own base": (put("model_version", 7), "version", f"{TWO_63} 7 to 7"),
    "a version below 0": (put("base_version", -1), "version", f"{TWO_63} -1 to 9"),
    "a version of 2^63": (put("model_version", 2**63), "version", f"{TWO_63} 7 to 9223372036854775808"),
    "a float as version": (put("model_version", 9.0), "format", "model_version: expected an integer, got 9.0"),
    "a bool as version": (put("base_version", True), "format", "base_version: expected an integer, got True"),
    "a pass below 0": (put("pass", -1), "format", "expected a pass from 0 and a finite time"),
    "no time": (drop("produced_at"), "format", "missing key 'produced_at'"),
    "a time in words": (put("produced_at", "now"), "format", "produced_at: expected a .*number.*, got 'now'"),
    "a time of NaN": (put("produced_at", float("nan")), "format", "expected JSON, got: NaN is not a JSON number"),
    "an endless time": (put("produced_at", float("inf")), "format", "Infinity is not a JSON number"),
    "a time of 1e999": (
        lambda root: text((root / "manifest.json").read_text().replace("1000000000.0", "1e999"))(root),
        "format",
        "expected JSON, got: the number 1e999 is beyond float64",
    ),
    "a time of 10^400": (put("produced_at", 10**400), "format", "expected JSON, got: the number 1000"),
    "no base": (drop("base_version"), "format", "missing key 'base_version'"),
    "no schema": (drop("schema_hash"), "format", "missing key 'schema_hash'"),
    # the manifest's text
    "a list": (text("[]"), "format", "expected a JSON object, got list"),
    "a number": (text("7"), "format", "expected a JSON object, got int"),
    "no JSON": (text("{"), "format", "expected JSON, got: "),
    "nothing": (text(""), "format", "expected JSON, got: "),
    "no UTF-8": (text(b'{"format": "\xff"}'), "format", "expected JSON, got: "),
    "nested without end": (text("[" * 200_000), "format", "expected JSON, got: "),
    "a number without end": (text('{"pass": ' + "9" * 5000 + "}"), "format", "expected JSON, got: "),
    "100 MB": (huge, "format", "expected at most 16777216 bytes, got 100000000"),
    "a name twice": (doubled, "format", "'rows/user.safetensors' comes twice"),
    "no manifest": (lambda root: (root / "manifest.json").unlink(), "format", "got one without"),
    "a folder as manifest": (
        replaced("manifest.json", Path.mkdir),
        "format",
        "expected a regular file, got a special file",
    ),
    "a link as manifest": (
        replaced("manifest.json", lambda path: path.symlink_to("../secret")),
        "format",
        LINK,
    ),
    "a pipe as manifest": (replaced("manifest.json", os.mkfifo), "format", "got a special file"),
    # the listing
    "no listing": (drop("files"), "files", "missing key 'files'"),
    "a listing of names": (put("files", [DENSE]), "files", "files: expected dict, got list"),
    "an entry that is a number": (listed(USER, 7), "files", "expected a mapping with bytes, sha256, got 7"),
    "an entry without a hash": (listed(USER, {"bytes": 7}), "files", "missing key 'sha256'"),
    "bytes as text": (
        listed(USER, {"bytes": "7", "sha256": ""}),
        "files",
        "bytes: expected an integer from 0",
    ),
    "bytes below 0": (listed(USER, {"bytes": -1, "sha256": ""}), "files", "bytes: expected an integer from 0, got -1"),
    "another hash": (
        manifest(lambda data: data["files"][USER].__setitem__("sha256", "0" * 64)),
        "files",
        "user.safetensors: expected sha256 0{64}, got [0-9a-f]{64}",
    ),
    "a path outside": (listed("../secret", ENTRY), "path", r"expected plain paths inside the delta, got '\.\./secret'"),
    "a path around": (listed("rows/../../secret", ENTRY), "path", r"got 'rows/\.\./\.\./secret'"),
    "an absolute path": (listed("/etc/passwd", ENTRY), "path", "got '/etc/passwd'"),
    "a path with a NUL": (listed("rows/a\0", ENTRY), "path", "expected plain paths"),
    "an empty path": (listed("", ENTRY), "path", "expected plain paths"),
    "a path from here": (listed("./dense.safetensors", ENTRY), "path", "expected plain paths"),
    "a table of another model": (
        listed("rows/other.safetensors", ENTRY),
        "table",
        r"expected dense\.safetensors, dense\.onnx or rows of a table, got 'rows/other\.safetensors'",
    ),
    "half a surrogate": (listed("rows/\ud800", ENTRY), "format", "expected JSON, got: .*surrogates not allowed"),
    "itself": (listed("manifest.json", ENTRY), "table", "got 'manifest.json'"),
    "a file more": (lambda root: (root / "rows/b").write_text(""), "files", "expected only files listed"),
    "a file less": (lambda root: (root / USER).unlink(), "files", r"user\.safetensors: expected a file of \d+ bytes"),
    "a file longer": (lambda root: os.truncate(root / USER, 10_000), "files", r"expected \d+ bytes, got 10000"),
    "a link as file": (replaced(USER, lambda path: path.symlink_to(VIDEO)), "files", LINK),
    "a link as folder": (
        lambda root: (shutil.move(root / "rows", root.parent / "rows"), (root / "rows").symlink_to("../rows")),
        "files",
        LINK,
    ),
    "a pipe as file": (replaced(USER, os.mkfifo), "files", "got a special file"),
    "a graph without weights": (unlisted(DENSE), "dense", r"expected dense\.safetensors beside dense\.onnx, got none"),
    # the weights
    "no weights": (
        both(replaced(DENSE, lambda path: path.write_bytes(b"")), lambda root: relist(root, DENSE)),
        "dense",
        "expected a safetensors file of at least 8 bytes, got 0",
    ),
    "a weight more": (
        tensors(DENSE, lambda values: values.__setitem__("more", np.zeros(2, np.float32))),
        "dense",
        "tensor 'more': expected a tensor that its network reads, got one more",
    ),
    "a weight less": (tensors(DENSE, lambda values: values.popitem()), "dense", "expected tensor .* got none"),
    "weights of NaN": (
        tensors(DENSE, lambda values: next(iter(values.values())).flat.__setitem__(0, np.nan)),
        "dense",
        "expected finite values, got NaN",
    ),
    "weights of float64": (
        tensors(DENSE, lambda values: values.update({n: v.astype(np.float64) for n, v in values.items()})),
        "dense",
        "expected F32, got F64",
    ),
    # the rows
    "rows of NaN": (
        tensor("rows", at((2, 3), np.nan)),
        "finite",
        r"rows\[2, 3\]: expected a finite number of at most 1e\+06, got nan",
    ),
    "rows that overflow": (
        tensor("rows", at((2, 3), 2e6)),
        "finite",
        r"rows\[2, 3\]: expected .* at most 1e\+06, got 2",
    ),
    "endless rows": (tensor("rows", at((9, 0), -np.inf)), "finite", r"rows\[9, 0\]: expected .*, got -inf"),
    "a default row of NaN": (tensor("default", at(1, np.nan)), "finite", r"default\[1\]: expected a finite number"),
    "an endless score": (tensor("scores", at(0, np.inf)), "finite", r"scores\[0\]: expected a finite score or NaN"),
    "an expiry of NaN": (tensor("expires", at(1, np.nan)), "finite", r"expires\[1\]: expected Unix seconds or inf"),
    "an expiry of -inf": (tensor("expires", at(1, -np.inf)), "finite", r"expires\[1\]: expected Unix .*, got -inf"),
    "an id out of range": (
        tensor("keys", at(9, 1 << 48)),
        "range",
        rf"keys\[9\]: expected keys of table number 0, ids below 2\^48, got {1 << 48}",
    ),
    "ids of another table": (
        tensor("keys", lambda keys: keys - np.uint64(1 << 48), VIDEO),
        "range",
        r"keys\[0\]: expected keys of table number 1",
    ),
    "no id": (tensor("keys", at(9, 2**64 - 1)), "range", r"keys\[9\]: expected keys of table number 0"),
    "unsorted ids": (tensor("keys", lambda keys: keys[::-1].copy()), "order", "expected ascending keys, each once"),
    "an id twice": (tensor("keys", at(5, 11)), "order", r"keys\[4\]: expected ascending keys, each once, got 11"),
    "a row of the base": (tensor("versions", at(3, BASE)), "version", r"versions\[3\]: expected 8 to 9, got 7"),
    "a row to come": (tensor("versions", at(3, 10)), "version", r"versions\[3\]: expected 8 to 9, got 10"),
    "a row of 2^64 - 1": (tensor("versions", at(0, 2**64 - 1)), "version", r"versions\[0\]: expected 8 to 9"),
    "half a deletion": (tensor("tombstones", at(0, 2)), "tombstone", r"tombstones\[0\]: expected 0 or 1, got 2"),
    "rows too wide": (
        tensor("rows", lambda rows: np.zeros((10, 7), np.float32)),
        "shape",
        r"rows: expected float32 \[10, 6\], got float32 \[10, 7\]",
    ),
    "flat rows": (
        tensor("rows", lambda rows: rows.reshape(-1)),
        "shape",
        r"rows: expected float32 \[10, 6\], got .*60",
    ),
    "rows of float64": (tensor("rows", lambda rows: rows.astype(np.float64)), "shape", r"got float64 \[10, 6\]"),
    "rows of float16": (tensor("rows", lambda rows: rows.astype(np.float16)), "shape", r"got float16 \[10, 6\]"),
    "keys with a sign": (tensor("keys", lambda keys: keys.astype(np.int64)), "shape", "keys: expected uint64"),
    "keys in rows": (tensor("keys", lambda keys: keys[:, None]), "shape", r"keys: expected \[N\], got \[10, 1\]"),
    "versions too short": (tensor("versions", lambda v: v[:9]), "shape", r"versions: expected uint64 \[10\], got .*9"),
    "scores of float64": (tensor("scores", lambda v: v.astype(np.float64)), "shape", "scores: expected float32"),
    "a wide default": (
        tensor("default", lambda v: np.zeros(7, np.float32)),
        "shape",
        r"default: expected float32 \[6\], got float32 \[7\]",
    ),
    "a tensor more": (
        tensors(USER, lambda values: values.__setitem__("more", np.zeros(1, np.float32))),
        "shape",
        "expected tensors .*'tombstones', 'versions'.*, got .*'more'",
    ),
    "a tensor less": (tensors(USER, lambda values: values.pop("scores")), "shape", "expected tensors .*'scores'"),
    "rows that are no tensors": (
        both(replaced(USER, lambda path: path.write_bytes(b"\xff" * 64)), lambda root: relist(root, USER)),
        "files",
        "header: expected at most 56 bytes, got a length of",
    ),
    "a tensor twice": (
        both(
            replaced(USER, lambda path: path.write_bytes(_header('{"a": 1, "a": 1}'))), lambda root: relist(root, USER)
        ),
        "files",
        "key 'a' comes twice",
    ),
}


def _header(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


@pytest.mark.parametrize(("change", "reason", "said"), CASES.values(), ids=CASES)
def test_each_fault_is_refused(
    change: Break, reason: str, said: str, root: Path, check: Callable[[Path], Delta], tmp_path: Path
) -> None:
    check(root)
    change(root)
    with pytest.raises(UpdateError, match=said) as error:
        check(root)
    assert error.value.reason == reason
    assert len(str(error.value)) < 2000
    assert (tmp_path / "secret").read_text() == "nobody's business"


def test_messages_tell_faults_apart() -> None:
    said = [(reason, text) for _, reason, text in CASES.values()]
    assert len({reason for reason, _ in said}) == 12
    assert {reason for reason, _ in said} <= set(reasons())
