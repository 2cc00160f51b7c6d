"""Bundles that are refused: what is wrong with each, and what the error says."""

from __future__ import annotations

import os
import shutil
import struct

import numpy as np
from broken_bundle import (
    RIGHT,
    all_of,
    flip,
    link,
    parity,
    put_in,
    retext,
    set_tensor,
    spoil,
    text,
    unfit,
)
from forged import Break, drop, listed, manifest, put, tensors

LINK = "expected a regular file, got a symbolic link"

DENSE = "dense.safetensors"
TABLE = "tables/video.safetensors"

CASES: list[tuple[str, Break, str]] = [
    # files: missing, truncated, longer, altered, one too many
    ("no manifest", lambda r: (r / "manifest.json").unlink(), r"directory with manifest\.json, got one without"),
    ("no graph", lambda r: (r / "dense.onnx").unlink(), r"dense\.onnx: expected a file of \d+ bytes, got no file"),
    ("no table", lambda r: (r / TABLE).unlink(), r"video\.safetensors: expected a file of \d+ bytes, got no file"),
    ("no folder", lambda r: shutil.rmtree(r / "tables"), r"tables/page\.safetensors: expected a file of \d+ bytes"),
    ("truncated", lambda r: os.truncate(r / TABLE, 100), r"video\.safetensors: expected \d+ bytes, got 100"),
    ("emptied", lambda r: os.truncate(r / "dense.onnx", 0), r"dense\.onnx: expected \d+ bytes, got 0"),
    ("longer", lambda r: os.truncate(r / "parity.json", 10**6), r"parity\.json: expected \d+ bytes, got 1000000"),
    ("graph altered", flip("dense.onnx"), r"dense\.onnx: expected sha256 [0-9a-f]{64}, got [0-9a-f]{64}"),
    ("weights altered", flip(DENSE), r"dense\.safetensors: expected sha256"),
    ("table altered", flip(TABLE), r"video\.safetensors: expected sha256"),
    ("parity altered", flip("parity.json"), r"parity\.json: expected sha256"),
    ("one more", text("notes.txt", "hi"), r"notes\.txt: expected only files listed in manifest\.json, got one more"),
    ("one more table", text("tables/x.safetensors", ""), r"x\.safetensors: expected only files listed"),
    ("a pipe", lambda r: os.mkfifo(r / "pipe"), r"pipe: expected a regular file, got a special file"),
    # the manifest's text
    ("not json", text("manifest.json", "{"), r"manifest\.json: expected JSON, got"),
    ("not utf-8", text("manifest.json", b'{"a": "\xff"}'), r"manifest\.json: expected JSON, got"),
    ("empty", text("manifest.json", ""), r"manifest\.json: expected JSON, got"),
    ("a list", text("manifest.json", "[]"), r"manifest\.json: expected a JSON object, got list"),
    ("too deep", text("manifest.json", "[" * 10**5), r"manifest\.json: expected JSON, got"),
    (
        "deep",
        text("manifest.json", '{"a":' + "[" * 100 + "]" * 100 + "}"),
        r"manifest\.json: expected JSON, at most 64 values deep, got deeper",
    ),
    (
        "many values",
        text("manifest.json", '{"a": [' + "{}," * 300_000 + "{}]}"),
        r"manifest\.json: expected JSON of at most 500000 values, got about 600",
    ),
    ("long number", text("manifest.json", '{"a": 1' + "0" * 400 + "}"), r"got: the number 10+ is beyond 64 bits"),
    ("half a character", text("manifest.json", '{"a": "\\ud800"}'), r"expected JSON, got: .*surrogates not allowed"),
    ("large number", text("manifest.json", '{"a": 1e400}'), r"got: the number 1e400 is beyond float64"),
    ("many digits", text("manifest.json", '{"a": 0.' + "1" * 10**6 + "}"), r"is beyond float64"),
    (
        "name twice",
        text("manifest.json", "{" + "".join(f'"k{i}":0,' for i in range(200_000)) + '"z":0,"z":0}'),
        r"manifest\.json: expected JSON, got: key 'z' comes twice",
    ),
    ("NaN", text("manifest.json", '{"a": NaN}'), r"manifest\.json: expected JSON, got: NaN is not a JSON number"),
    ("parity not json", retext("parity.json", b"{"), r"parity\.json: expected JSON"),
    ("huge", lambda r: os.truncate(r / "manifest.json", 1 << 30), r"expected at most 16777216 bytes, got 1073741824"),
    # the manifest's keys
    *(
        (f"no {key}", drop(key), rf"manifest\.json: missing key '{key}'")
        for key in ("format_version", "model_version", "schema", "config", "schema_hash", "tasks", "domains", "files")
    ),
    (
        "newer format",
        put("format_version", 3),
        r"format_version: expected 1 or 2, got 3, a newer format: update pepnet-infer",
    ),
    ("format 0", put("format_version", 0), r"format_version: expected 1 or 2, got 0, an unknown format"),
    ("format as text", put("format_version", "1"), r"format_version: expected int, got str '1'"),
    ("format true", put("format_version", True), r"format_version: expected int, got bool True"),
    ("negative version", put("model_version", -1), r"model_version: expected an integer from 0, got -1"),
    ("version as float", put("model_version", 7.0), r"model_version: expected an integer from 0, got 7.0"),
    (
        "other tasks",
        put("tasks", ["like", "click"]),
        r"tasks: expected \['click', 'like'\] as in its schema, got \['like'",
    ),
    ("other domains", put("domains", [0, 1]), r"domains: expected \[0, 1, 4\] as in its schema, got \[0, 1\]"),
    ("files a list", put("files", []), r"files: expected a mapping, got"),
    ("other hash", put("schema_hash", "0" * 64), r"schema_hash: expected [0-9a-f]{64} for its schema, got 0{64}"),
    ("other schema", put_in("schema", "name", "x"), r"schema_hash: expected [0-9a-f]{64} for its schema, got"),
    (
        "bad schema",
        put_in("schema", "fields", 3),
        r"manifest\.json: schema\.fields: expected a list of at most 8192, .*, got 3",
    ),
    (
        "a dense field without its mean",
        manifest(unfit),
        r"manifest\.json: schema: expected every dense field to have its mean and std, got null",
    ),
    (
        "boundaries a number",
        manifest(lambda d: d["schema"]["fields"][0]["transform"].update(boundaries=5)),
        r"schema\.fields\[0\] \(user_id\)\.transform\.boundaries: expected a list, each a number, got 5",
    ),
    (
        "hours off",
        manifest(lambda d: d["schema"]["fields"][0]["transform"].update(utc_offset=1e15)),
        r"transform\.utc_offset: expected a number from -26 to 26, got 1000000000000000",
    ),
    (
        "bag beyond counting",
        manifest(lambda d: d["schema"]["fields"][2].update(max_len=2**63)),
        r"max_len: expected an integer from 1 to 2147483647 or None, got 9223372036854775808",
    ),
    (
        "field twice",
        manifest(lambda d: d["schema"]["fields"].append(d["schema"]["fields"][0])),
        r"schema\.fields: duplicate name 'user_id'",
    ),
    (
        "many fields",
        manifest(lambda d: d["schema"]["fields"].extend([d["schema"]["fields"][0]] * 8192)),
        r"schema\.fields: expected a list of at most 8192, .*, got a list of 8\d{3}",
    ),
    (
        "many layers",
        put_in("config", "layers", [1] * 1000),
        r"layers: expected a list .*, got a list of 1000",
    ),
    (
        "wide layer",
        put_in("config", "layers", [2**40]),
        r"layers\[0\]: expected an integer from 1 to 2147483647",
    ),
    (
        "no hash",
        listed("dense.onnx", {"bytes": 3, "sha256": "x" * 200}),
        r"sha256: expected .*, got 'x{20,99}",
    ),
    (
        "golden seed",
        parity(lambda p: p["golden"].__setitem__("seed", -1)),
        r"golden\.seed: expected an integer",
    ),
    (
        "golden of another width",
        parity(lambda p: p["golden"].__setitem__("scores", [[0.5, 0.5], [0.5]])),
        r"parity\.json: golden\.scores\[1\]: expected 2 numbers, got 1",
    ),
    (
        "golden scores beyond 1",
        parity(lambda p: p["golden"].__setitem__("scores", [[0.5, 1.5]])),
        r"golden\.scores\[0\]\[1\]: expected a number from 0 to 1, got 1\.5",
    ),
    ("no fp32", parity(lambda p: p.pop("fp32")), r"parity\.json: missing key 'fp32'"),
    (
        "bad config",
        put_in("config", "experts", "3"),
        r"config\.experts: expected an integer .*, got '3'",
    ),
    ("unknown flag", put_in("config", "turbo", 1), r"manifest\.json: config: unknown key 'turbo'"),
    (
        "other widths",
        put_in("config", "inputs", {"general": 22, "domain": 4, "prior": 11}),
        r"config\.inputs\.general: expected 21 columns as in its schema, got 22",
    ),
    ("budgets a list", put("precisions", []), r"manifest\.json: precisions: expected a mapping, got"),
    ("unknown precision", put("precisions", {"fp8": {}}), r"precisions: expected bf16 or int8, got 'fp8'"),
    (
        "budget of less",
        put("precisions", {"int8": {"max_abs": 0.1}}),
        r"precisions: int8: expected max_abs, delta_auc, got max_abs",
    ),
    (
        "budget negative",
        put("precisions", {"int8": {"max_abs": -0.1, "delta_auc": 1}}),
        r"precisions: int8\.max_abs: expected a number above 0, got -0\.1",
    ),
    (
        "budget infinite",
        put("precisions", {"int8": {"max_abs": 1e999, "delta_auc": 1}}),
        r"precisions: int8\.max_abs: expected a number above 0, got inf|Infinity is not a JSON number",
    ),
    ("native a list", parity(lambda p: p.__setitem__("native", [])), r"parity\.json: native: expected a mapping, got"),
    (
        "offered a word",
        parity(lambda p: p["native"]["int8"].__setitem__("offered", "yes")),
        r"parity\.json: native\.int8: offered: expected true or false, got 'yes'",
    ),
    (
        "figure a word",
        parity(lambda p: p["native"]["bf16"].__setitem__("max_abs", "small")),
        r"parity\.json: native\.bf16: max_abs: expected a number or None, got 'small'",
    ),
    ("no reason", parity(lambda p: p["native"]["fp32"].pop("why")), r"native\.fp32: missing key 'why'"),
    # paths
    ("dots", listed("../secret", RIGHT), r"files: '\.\./secret': expected a plain path inside the bundle"),
    ("dots inside", listed("tables/../../secret", RIGHT), r"expected a plain path inside the bundle"),
    ("absolute", listed("/etc/hostname", RIGHT), r"'/etc/hostname': expected a plain path inside the bundle"),
    ("backslash", listed("..\\secret", RIGHT), r"expected a plain path inside the bundle"),
    ("not normal", listed("./dense.onnx", RIGHT), r"expected a plain path inside the bundle"),
    ("empty name", listed("", RIGHT), r"'': expected a plain path inside the bundle"),
    ("nul", listed("a\0b", RIGHT), r"expected a plain path inside the bundle"),
    ("lists itself", listed("manifest.json", RIGHT), r"expected a plain path inside the bundle"),
    ("file link", link("dense.onnx", "elsewhere"), rf"dense\.onnx: {LINK}"),
    ("table link", link(TABLE, "elsewhere"), rf"video\.safetensors: {LINK}"),
    ("folder link", link("tables", "elsewhere"), rf"tables: {LINK}"),
    ("manifest link", link("manifest.json", "elsewhere"), rf"manifest\.json: {LINK}"),
    (
        "link to the secret",
        all_of(link("more", "secret", as_is=True), listed("more", RIGHT)),
        rf"more: {LINK}",
    ),
    ("dangling link", link("more", "nowhere", as_is=True), rf"more: {LINK}"),
    # what the listing says
    ("entry a number", listed("dense.onnx", 3), r"'dense\.onnx': expected a mapping with bytes, sha256, got 3"),
    ("no sha256", listed("dense.onnx", {"bytes": 3}), r"files: 'dense\.onnx': missing key 'sha256'"),
    ("size as text", listed("dense.onnx", {"bytes": "3", "sha256": ""}), r"bytes: expected an integer from 0, got '3'"),
    (
        "unlisted",
        manifest(lambda d: d["files"].pop(TABLE)),
        r"files: expected 'tables/video\.safetensors' to be listed",
    ),
    (
        "no graph listed",
        manifest(lambda d: d["files"].pop("dense.onnx")),
        r"files: expected 'dense\.onnx' to be listed",
    ),
    # dense weights, listed as they are
    ("weight gone", tensors(DENSE, lambda t: t.pop("mix.b")), r"expected tensor 'mix\.b' \[6\], got none"),
    (
        "weight more",
        set_tensor(DENSE, "mix.c", np.zeros(2, np.float32)),
        r"tensor 'mix\.c': expected a tensor that its network reads, got one more",
    ),
    ("weight shape", set_tensor(DENSE, "mix.w", lambda w: w.T), r"'mix\.w': expected shape \[21, 6\], got \[6, 21\]"),
    (
        "weights that overflow",
        set_tensor(DENSE, "experts.0.w", lambda w: w * np.float32(1e34)),
        r"dense\.safetensors: tensor 'experts\.\d\.w': sums: expected numbers below 1e\+38, so that float32 cannot",
    ),
    ("gamma", put_in("config", "gamma", 1e20), r"manifest\.json: config\.gamma: expected a number from 0\.001 to 1000"),
    (
        "another gamma",
        put_in("config", "gamma", 1.75),
        r"manifest\.json: config\.gamma: expected 2\.0 as in parity\.json, which was measured with it, got 1\.75",
    ),
    (
        "another extra",
        put_in("config", "extra", {"a": 1}),
        r"manifest\.json: config\.extra: expected \{\} as in parity\.json, which",
    ),
    ("no measured config", parity(lambda p: p.pop("config")), r"parity\.json: missing key 'config'"),
    (
        "a measured config that cannot be",
        parity(lambda p: p["config"].__setitem__("gamma", "2")),
        r"parity\.json: config\.gamma: expected a number from 0\.001 to 1000, got '2'",
    ),
    ("weight type", set_tensor(DENSE, "mix.w", lambda w: w.astype("f8")), r"'mix\.w': expected F32, got F64"),
    (
        "weight NaN",
        set_tensor(DENSE, "mix.w", spoil((2, 3), np.nan)),
        r"tensor 'mix\.w': expected finite values, got NaN or infinity at \[2, 3\]",
    ),
    ("weight inf", set_tensor(DENSE, "towers.0.b", spoil((1, 0), -np.inf)), r"'towers\.0\.b': expected finite"),
    ("no safetensors", retext(DENSE, struct.pack("<Q", 1) + b"{"), r"dense\.safetensors: header: expected JSON"),
    ("header past the end", retext(DENSE, b"\xff" * 8), r"dense\.safetensors: header: expected at most"),
    # tables, listed as they are
    (
        "rows too wide",
        set_tensor(TABLE, "rows", np.zeros((40, 6), np.float32)),
        r"rows: expected F32 \[40, 5\], got F32 \[40, 6\]",
    ),
    ("rows too few", set_tensor(TABLE, "rows", lambda r: r[:-1]), r"rows: expected F32 \[40, 5\], got F32 \[39, 5\]"),
    (
        "rows of ints",
        set_tensor(TABLE, "rows", lambda r: r.astype(np.int64)),
        r"rows: expected one of F32, F16, BF16, got I64",
    ),
    (
        "row NaN",
        set_tensor(TABLE, "rows", spoil((17, 4), np.nan)),
        r"video\.safetensors: rows\[17, 4\]: expected a finite",
    ),
    (
        "default inf",
        set_tensor(TABLE, "default", spoil((2,), np.inf)),
        r"default\[2\]: expected a finite number, got inf",
    ),
    (
        "score NaN",
        set_tensor(TABLE, "scores", spoil((39,), np.nan)),
        r"scores\[39\]: expected a finite number, got nan",
    ),
    ("keys unsorted", set_tensor(TABLE, "keys", lambda k: k[::-1]), r"keys: expected ascending, distinct keys"),
    (
        "keys of another",
        set_tensor(TABLE, "keys", lambda k: k ^ np.uint64(1 << 50)),
        r"keys: expected table number 1, got 5",
    ),
    (
        "no default",
        tensors(TABLE, lambda t: t.pop("default")),
        r"expected tensors keys, rows, scores, default, got keys, rows",
    ),
]
