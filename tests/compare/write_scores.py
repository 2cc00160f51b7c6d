"""Run by each build: scores the stored inputs in every way there is, and writes the scores."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pepnet_infer import BackendError, CacheConfig, Engine

ISAS = ("scalar", "avx2", "avx512", "amx")
#: Backend, precision and options of each way to score.
WAYS: list[tuple[str, str, dict[str, Any]]] = [
    *(
        ("native", precision, {"isa": isa, "unchecked": True, "spin": False})
        for precision in ("fp32", "bf16", "int8")
        for isa in ISAS
    ),
    ("onnxruntime", "fp32", {}),
    ("cuda", "fp32", {}),
    ("cuda", "bf16", {}),
]
SIZES = (1, 7, 64)


def main(files: Path, out: Path) -> None:
    """Writes one file a bundle."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for bundle in sorted((files / "bundles").iterdir()):
        arrays: dict[str, Any] = {}
        rows = pq.read_table(files / f"{bundle.name}.parquet")
        for backend, precision, options in WAYS:
            way = f"{backend} {precision} {options.get('isa', '')}".strip()
            try:
                engine = Engine.load(bundle, backend=backend, precision=precision, threads=2, options=options)
            except BackendError as error:
                arrays[f"{way}: not here"] = np.array(type(error).__name__)
                continue
            with engine:
                for name, array in _scores(engine, rows).items():
                    arrays[f"{way}: {name}"] = array
        for policy in ("gset", "lru"):
            with Engine.load(bundle, backend="native", threads=1, cache=CacheConfig(policy, "1MiB")) as engine:
                for turn in ("cold", "warm"):
                    arrays[f"cache {policy} {turn}"] = engine.score(rows).values
        np.savez(out / f"{bundle.name}.npz", **arrays)


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
    main(Path(sys.argv[1]), Path(sys.argv[2]))
