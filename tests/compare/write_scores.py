"""Run by each build: scores the stored inputs in every way there is, and writes the scores."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pepnet_infer import BackendError, CacheConfig, Engine

ISAS = ("scalar", "avx2", "avx512", "amx")
#: Device, backend, precision and options of each way to score.
WAYS: list[tuple[str, str, str, dict[str, Any]]] = [
    *(
        ("cpu", "native", precision, {"isa": isa, "unchecked": True, "spin": False})
        for precision in ("fp32", "bf16", "int8")
        for isa in ISAS
    ),
    ("cpu", "onnxruntime", "fp32", {}),
    ("cuda", "native", "fp32", {}),
    ("cuda", "native", "bf16", {}),
]
SIZES = (1, 7, 64)


def main(files: Path, out: Path, isa: str | None) -> None:
    """Writes one file a bundle; with `isa`, one that scores by the kernels for that alone."""
    out.mkdir(parents=True, exist_ok=True)
    for bundle in sorted((files / "bundles").iterdir()):
        arrays: dict[str, Any] = {}
        rows = pq.read_table(files / f"{bundle.name}.parquet")
        for device, backend, precision, options in WAYS:
            if isa is not None and options.get("isa") != isa:
                continue
            way = f"{device} {backend} {precision} {options.get('isa', '')}".strip()
            try:
                engine = _load(bundle, device, backend, precision, options)
            except BackendError as error:
                arrays[f"{way}: not here"] = np.array(type(error).__name__)
                continue
            with engine:
                # Emulated instructions take a thousand times as long.
                for name, array in _scores(engine, rows if isa is None else rows.slice(0, SIZES[-1])).items():
                    arrays[f"{way}: {name}"] = array
        for policy in ("gset", "lru") if isa is None else ():
            with Engine.load(bundle, threads=1, cache=CacheConfig(policy, "1MiB")) as engine:
                for turn in ("cold", "warm"):
                    arrays[f"cache {policy} {turn}"] = engine.score(rows).values
        np.savez(out / (f"{bundle.name}.npz" if isa is None else f"{bundle.name}-{isa}.npz"), **arrays)


def _load(bundle: Path, device: str, backend: str, precision: str, options: dict[str, Any]) -> Engine:
    """Loads an engine; builds before `device` named the GPU's kernels as a backend."""
    if "device" in inspect.signature(Engine.load).parameters:
        return Engine.load(bundle, device=device, backend=backend, precision=precision, threads=2, options=options)
    named = "cuda" if device == "cuda" else backend
    return Engine.load(bundle, backend=named, precision=precision, threads=2, options=options)


def _scores(engine: Any, rows: Any) -> dict[str, Any]:
    found = {}
    for size in (*SIZES, rows.num_rows):
        scores = engine.score(rows.slice(0, size))
        found[f"{size} rows"] = scores.values
        found[f"{size} rows, unknown"] = np.array(sorted(scores.unknown.items()))
    widths = engine.bundle.config.inputs
    rng = np.random.default_rng(13)
    given = [
        rng.standard_normal((33, width), dtype=np.float32) for width in (widths.general, widths.domain, widths.prior)
    ]
    found["dense"] = engine.score_dense(*given)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
